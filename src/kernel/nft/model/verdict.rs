//! Verdicts of rules and verdict maps.

use std::fmt;
use std::sync::Arc;

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Go on to the next base chain of the hook.
    Accept,
    /// Drop it.
    Drop,
    /// Go on after the rule that jumped here.
    Return,
    /// Go on with the next rule.
    Continue,
    /// Go through another chain and come back.
    Jump(Arc<str>),
    /// Go through another chain and come back to where this one was entered from.
    Goto(Arc<str>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
