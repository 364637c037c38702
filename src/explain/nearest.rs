//! The nearest names to one that does not exist.

/// How many are offered.
const MOST: usize = 3;

/// Names that are almost this one, the nearest first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = known
        .filter(|other| *other != name && may_be_near(name, other))
        .map(|other| (strsim::osa_distance(name, other), other))
        .filter(|(distance, other)| is_near(*distance, name, other))
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST).map(|(_, other)| other).collect()
}

/// Whether their lengths permit it: a distance is at least the difference of the lengths. In a large cluster, most names
/// are told apart by this alone.
fn may_be_near(name: &str, other: &str) -> bool {
    let (length, others) = (name.chars().count(), other.chars().count());
    length.abs_diff(others) <= most_differences(name) || begins(name, other)
}

/// A letter in four may differ, one in short names; or one name begins like the other.
fn is_near(distance: usize, name: &str, other: &str) -> bool {
    distance <= most_differences(name) || begins(name, other)
}

fn most_differences(name: &str) -> usize {
    (name.chars().count() / 4).max(1)
}

fn begins(name: &str, other: &str) -> bool {
    let shorter = name.len().min(other.len());
    shorter >= 3 && (other.starts_with(name) || name.starts_with(other))
}

/// `; do you mean a, b or c?`, or nothing.
pub(crate) fn hint(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!("; do you mean {one}?"),
        [first @ .., last] => format!("; do you mean {} or {last}?", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["web", "web-v2", "wep", "db", "kube-dns", "metrics"];
        let of = |name| nearest(name, known.into_iter());
        assert_eq!(of("wbe"), ["web"]);
        assert_eq!(of("kube-dsn"), ["kube-dns"]);
        assert_eq!(of("shop"), Vec::<&str>::new());
        assert_eq!(of("web-v"), ["web-v2", "web"]);
        assert_eq!(hint(&["a", "b", "c"]), "; do you mean a, b or c?");
        assert_eq!(hint(&["a"]), "; do you mean a?");
        assert_eq!(hint(&[] as &[&str]), "");
    }
}
