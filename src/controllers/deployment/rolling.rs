//! How many Pods each set of a Deployment may have at this moment (`rolling.go`, `recreate.go`).

use serde_json::Value;

use crate::fields::{number, text};

/// How many Pods more, and how many fewer, than asked for there may be meanwhile.
struct Limits {
    surge: i64,
    unavailable: i64,
}

fn limits(deployment: &Value) -> Limits {
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    let desired = desired(deployment);
    let surge = part(&update["maxSurge"], desired, true);
    let unavailable = part(&update["maxUnavailable"], desired, false);
    // Both rounded to nothing would be a standstill (`ResolveFenceposts`).
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Limits { surge, unavailable }
}

/// A number, or a percentage of another.
fn part(value: &Value, whole: i64, up: bool) -> i64 {
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
        Some(percent) if up => (whole * percent + 99) / 100,
        Some(percent) => whole * percent / 100,
        None => number(value),
    }
}

/// With how many Pods that serve a Deployment is available.
pub(super) fn least_available(deployment: &Value) -> i64 {
    let unavailable = if recreates(deployment) { 0 } else { limits(deployment).unavailable };
    desired(deployment) - unavailable
}

fn desired(deployment: &Value) -> i64 {
    number(&deployment["spec"]["replicas"])
}

fn replicas(set: &Value) -> i64 {
    number(&set["spec"]["replicas"])
}

fn available(set: &Value) -> i64 {
    number(&set["status"]["availableReplicas"])
}

fn recreates(deployment: &Value) -> bool {
    text(&deployment["spec"]["strategy"]["type"]) == "Recreate"
}

/// With how many Pods a new set begins.
pub(super) fn first_replicas(deployment: &Value, old: &[&Value]) -> i64 {
    let pods = |set: &&Value| replicas(set).max(number(&set["status"]["replicas"]));
    let others: i64 = old.iter().map(pods).sum();
    if recreates(deployment) {
        return if others == 0 { desired(deployment) } else { 0 };
    }
    let others: i64 = old.iter().map(|set| replicas(set)).sum();
    (desired(deployment) + limits(deployment).surge - others).clamp(0, desired(deployment))
}

/// The sets whose number changes now.
pub(super) fn scale<'a>(
    deployment: &Value,
    new: &'a Value,
    old: &[&'a Value],
) -> Vec<(&'a Value, i64)> {
    if deployment["spec"]["paused"] == true {
        return scale_paused(deployment, new, old);
    }
    if recreates(deployment) {
        let living: Vec<(&Value, i64)> =
            old.iter().filter(|set| replicas(set) > 0).map(|set| (*set, 0)).collect();
        let wanted = if first_replicas(deployment, old) > 0 || desired(deployment) == 0 {
            desired(deployment)
        } else {
            replicas(new)
        };
        let grown = (living.is_empty() && wanted != replicas(new)).then_some((new, wanted));
        return living.into_iter().chain(grown).collect();
    }
    let grown = new_replicas(deployment, new, old);
    if grown != replicas(new) {
        return vec![(new, grown)];
    }
    shrink_old(deployment, new, old)
}

/// A Deployment that is paused is scaled in one set, the one that has all Pods.
fn scale_paused<'a>(
    deployment: &Value,
    new: &'a Value,
    old: &[&'a Value],
) -> Vec<(&'a Value, i64)> {
    let living: Vec<&Value> =
        old.iter().copied().chain([new]).filter(|set| replicas(set) > 0).collect();
    match living[..] {
        [only] if replicas(only) != desired(deployment) => vec![(only, desired(deployment))],
        [] if desired(deployment) > 0 => vec![(new, desired(deployment))],
        _ => Vec::new(),
    }
}

fn new_replicas(deployment: &Value, new: &Value, old: &[&Value]) -> i64 {
    let (desired, current) = (desired(deployment), replicas(new));
    if current >= desired {
        return desired;
    }
    let total: i64 = old.iter().map(|set| replicas(set)).sum::<i64>() + current;
    let room = desired + limits(deployment).surge - total;
    current + room.clamp(0, desired - current)
}

/// Takes Pods from the old sets, first those that do not serve, as long as enough are left that do.
fn shrink_old<'a>(deployment: &Value, new: &Value, old: &[&'a Value]) -> Vec<(&'a Value, i64)> {
    let mut living: Vec<&Value> = old.iter().copied().filter(|set| replicas(set) > 0).collect();
    living.sort_by_key(|set| text(&set["metadata"]["creationTimestamp"]));
    let total: i64 = living.iter().map(|set| replicas(set)).sum::<i64>() + replicas(new);
    let least = desired(deployment) - limits(deployment).unavailable;
    let mut budget = total - least - (replicas(new) - available(new)).max(0);
    let mut left: Vec<i64> = living.iter().map(|set| replicas(set)).collect();
    for (set, left) in living.iter().zip(&mut left) {
        let unhealthy = (replicas(set) - available(set)).clamp(0, budget.max(0));
        *left -= unhealthy;
        budget -= unhealthy;
    }
    let serving: i64 = old.iter().map(|set| available(set)).sum::<i64>() + available(new);
    let mut spare = (serving - least).min(budget).max(0);
    for left in &mut left {
        let taken = spare.min(*left);
        *left -= taken;
        spare -= taken;
    }
    let changed = living.into_iter().zip(left);
    changed.filter(|(set, left)| *left != replicas(set)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_percentage_is_rounded_towards_more_pods() {
        for (value, whole, up, expected) in [
            (json!("25%"), 3, true, 1),
            (json!("25%"), 3, false, 0),
            (json!("25%"), 4, true, 1),
            (json!("100%"), 3, false, 3),
            (json!(2), 3, true, 2),
            (json!(null), 3, true, 0),
        ] {
            assert_eq!(part(&value, whole, up), expected, "{value} of {whole}");
        }
    }
}
