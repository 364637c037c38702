//! All objects of one Service against this node's kernel.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::reader::Kernel;
use sluice_core::model::ServiceName;
use sluice_core::plan::ForwardingTable;
use sluice_explain::truth::{Object, Observed};
use sluice_explain::{API_VERSION, Looked};

/// What the kernel has of a Service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) service: String,
    pub(crate) mode: String,
    pub(crate) families: Vec<OfFamily>,
}

/// The same in one family.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OfFamily {
    pub(crate) family: String,
    pub(crate) kernel: Looked<Observed>,
}

impl Difference {
    /// Compares a Service in each table that has it. `now` says why a family cannot be compared just now.
    pub(crate) fn of(
        kernel: &Kernel,
        name: &ServiceName,
        tables: &[ForwardingTable],
        now: impl Fn(&ForwardingTable) -> Option<String>,
    ) -> Difference {
        let families = tables.iter().filter(|table| table.services.contains_key(name));
        let families = families.map(|table| {
            let looked = match now(table).map_or_else(|| kernel.inspect(table, name, None), Err) {
                Ok(seen) => Looked::At(seen),
                Err(why) => Looked::Not(why),
            };
            OfFamily { family: table.family.to_string(), kernel: looked }
        });
        Difference {
            api_version: API_VERSION.to_owned(),
            kind: "Difference".to_owned(),
            service: name.to_string(),
            mode: kernel.mode().to_string(),
            families: families.collect(),
        }
    }

    /// Whether all was looked at, and is as it should be.
    pub(crate) fn is_none(&self) -> bool {
        let same = |seen: &Observed| seen.missing.is_empty() && seen.extra.is_empty();
        self.families.iter().all(|family| family.kernel.seen().is_some_and(same))
    }

    /// As people read it: what is missing with a minus, what is too much with a plus.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for OfFamily { family, kernel } in &self.families {
            let _ = write!(text, "# {}: mode {}, {family}: ", self.service, self.mode);
            match kernel {
                Looked::Not(why) => drop(writeln!(text, "not looked at: {why}")),
                Looked::At(Observed { present, missing, extra }) => {
                    let counts = [present, missing, extra].map(Vec::len);
                    let [present, lacking, beyond] = counts;
                    let _ = writeln!(
                        text,
                        "{present} objects as desired, {lacking} missing, {beyond} too many"
                    );
                    missing.iter().for_each(|object| line(&mut text, '-', object));
                    extra.iter().for_each(|object| line(&mut text, '+', object));
                }
            }
        }
        if self.families.is_empty() {
            let _ =
                writeln!(text, "# {} has no address here, or another Service has it", self.service);
        }
        text
    }
}

fn line(text: &mut String, sign: char, Object { set, element, .. }: &Object) {
    let _ = writeln!(text, "{sign} {set}: {element}");
}
