//! Placeholder until the watch cases follow in the next commit.
