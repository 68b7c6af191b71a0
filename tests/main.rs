//! The integration binary: real processes, real files.
