//! The rules of publication on trails in memory, without a network: [`group`] makes several nodes
//! that hold the same history, or do not.

mod cosigner;
mod electorate;
mod group;
mod notebook;
mod publisher;
mod round;
mod standing;
