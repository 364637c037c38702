//! Quantities in Kubernetes' syntax.

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A quantity in the syntax of `staging/src/k8s.io/apimachinery/pkg/api/resource`: `512`, `1k`, `2Ki`.
/// It is kept as text: no code calculates with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quantity(String);

impl Quantity {
    /// Whether it is zero, in any unit.
    pub fn is_zero(&self) -> bool {
        !self.0.split(['e', 'E']).next().unwrap_or_default().contains(|c| ('1'..='9').contains(&c))
    }
}

impl Default for Quantity {
    fn default() -> Quantity {
        Quantity("0".to_owned())
    }
}

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantity, String> {
        const UNITS: [&str; 16] =
            ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let digits = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = unsigned.split_at(digits.unwrap_or(unsigned.len()));
        let exponent = unit.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok());
        if number.parse::<f64>().is_ok() && (UNITS.contains(&unit) || exponent.is_some()) {
            return Ok(Quantity(text.to_owned()));
        }
        Err(format!("{text:?} is not a quantity; write it like 512, 1k or 2Ki"))
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().map_err(D::Error::custom),
            Value::Number(number) => number.to_string().parse().map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("{other} is not a quantity"))),
        }
    }
}
