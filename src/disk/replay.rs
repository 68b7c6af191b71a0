//! Rebuilds directories from recorded runs.
