//! What people see of [`Results`]: text for a terminal, and a page.
//!
//! Reading order: [`view`] brings the results in the order in which they are shown, [`units`] writes
//! values, [`summary`] finds what is worth saying first; [`text`] is the terminal's form; [`page`] is
//! the page, with [`charts`] made of [`marks`] on axes of [`ticks`].
//!
//! Pure: the same results give the same text. Whatever is in them, nothing of it is taken as markup or
//! as commands to a terminal.

mod charts;
#[cfg(test)]
mod fixture;
mod marks;
mod page;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod ticks;
mod units;
mod view;

pub(super) use units::figure;

use super::results::{LeftOut, Machine, Results, Unit};

/// The results as plain text for a terminal: key figures, a table for each quantity that was measured,
/// what was left out, and the machine.
pub fn table(results: &Results) -> String {
    text::table(results)
}

/// The results as one HTML page that needs nothing beside itself: key figures, charts, what was left
/// out, machine and method, and all data as a table.
pub fn html(results: &Results) -> String {
    page::page(results)
}

/// What an entry of the list of omissions is about: "kube-proxy iptables, cold start, 10,000 Services".
fn what(entry: &LeftOut) -> String {
    let mut what = view::full_name(&entry.subject);
    if let Some(quantity) = entry.quantity {
        what.push_str(", ");
        what.push_str(quantity.title());
    }
    if let Some(services) = entry.services {
        what.push_str(&format!(", {} Services", units::grouped(services.into())));
    }
    what
}

fn memory(machine: &Machine) -> String {
    // No machine has so much that the difference would show.
    #[allow(clippy::cast_precision_loss)]
    let bytes = machine.memory as f64;
    units::figure(Unit::Bytes, bytes)
}

fn duration(seconds: f64) -> String {
    units::figure(Unit::Seconds, seconds)
}
