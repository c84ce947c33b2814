//! ctl/
