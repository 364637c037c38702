//! The kernel's table, from plans alone.
