//! Request steps, one file each.
