//! Repeated Events are sent once and then counted.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Event, Regarding, Severity};

/// A series without a repetition for this long has ended (client-go: finishTime).
const QUIET: SignedDuration = SignedDuration::from_mins(6);

/// How often a growing series is updated on the server.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);

/// Maximum number of series; the oldest are evicted.
const KEPT: usize = 256;

/// Events with the same key are repetitions (client-go: eventKey). The message is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    severity: Severity,
    reason: &'static str,
    action: &'static str,
    regarding: Regarding,
}

/// An Event that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The name of the Event object.
    pub name: String,
    /// How often it happened.
    pub count: u32,
    /// When it happened last.
    pub last: Timestamp,
    told: Told,
}

/// The state of a series on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    count: u32,
    at: Timestamp,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A new Event object of this name.
    Create(String),
    /// The series of this object has grown; an Event with a series has a count of two or more.
    Patch(Key, Known),
    /// Nothing now: it is counted and sent later.
    Wait,
}

/// The Events of the last minutes.
#[derive(Debug, Default)]
pub struct Series {
    known: BTreeMap<Key, Known>,
}

impl Series {
    /// Adds an Event and returns what to send.
    pub fn add(&mut self, event: &Event, at: Timestamp) -> Task {
        let key = Key {
            severity: event.severity,
            reason: event.reason,
            action: event.action,
            regarding: event.regarding.clone(),
        };
        if let Some(known) = self.known.get_mut(&key).filter(|k| at.duration_since(k.last) < QUIET)
        {
            known.count += 1;
            known.last = at;
            // The first repetition makes it a series, which is sent at once.
            if known.told.count > 1 && at.duration_since(known.told.at) < REFRESH {
                return Task::Wait;
            }
            known.told = Told { count: known.count, at };
            return Task::Patch(key, known.clone());
        }
        // Named as in client-go: the object's name and the nanoseconds since 1970.
        let name = format!("{}.{:x}", event.regarding.name(), at.as_nanosecond());
        let known = Known { name: name.clone(), count: 1, last: at, told: Told { count: 1, at } };
        self.known.insert(key, known);
        if self.known.len() > KEPT {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&key);
            }
        }
        Task::Create(name)
    }

    /// The server did not accept it: the next Event with this key is sent as a new one.
    pub fn forget(&mut self, name: &str) {
        self.known.retain(|_, known| known.name != name);
    }

    /// Series that have grown since they were last sent; those that have ended are removed.
    pub fn due(&mut self, at: Timestamp) -> Vec<(Key, Known)> {
        let mut due = Vec::new();
        for (key, known) in &mut self.known {
            let grown = known.count > known.told.count;
            if grown && at.duration_since(known.told.at) >= REFRESH {
                known.told = Told { count: known.count, at };
                due.push((key.clone(), known.clone()));
            }
        }
        self.known.retain(|_, known| at.duration_since(known.last) < QUIET);
        due
    }
}

impl Key {
    /// The object.
    pub fn regarding(&self) -> &Regarding {
        &self.regarding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn event(reason: &'static str) -> Event {
        Event {
            severity: Severity::Warning,
            reason,
            action: "Listen",
            regarding: Regarding::Node("n1".to_owned()),
            note: "a sentence".to_owned(),
        }
    }

    fn patched(task: Task) -> Option<(String, u32)> {
        match task {
            Task::Patch(_, known) => Some((known.name, known.count)),
            Task::Create(_) | Task::Wait => None,
        }
    }

    #[test]
    fn repetitions_become_a_series_that_is_told_once_a_minute() {
        let mut series = Series::default();
        let name = "n1.3b9aca00".to_owned();
        assert_eq!(series.add(&event("A"), at(1)), Task::Create(name.clone()));
        assert_eq!(patched(series.add(&event("A"), at(2))), Some((name.clone(), 2)));
        for second in 3..10 {
            assert_eq!(series.add(&event("A"), at(second)), Task::Wait);
        }
        assert_eq!(series.due(at(20)), []);
        let due = series.due(at(62));
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].1.count, due[0].1.last), (9, at(9)));
        assert_eq!(series.due(at(200)), [], "it did not grow");
        assert!(matches!(series.add(&event("B"), at(201)), Task::Create(_)), "another reason");
    }

    #[test]
    fn what_comes_back_after_a_quiet_time_is_a_new_event() {
        let mut series = Series::default();
        assert!(matches!(series.add(&event("A"), at(0)), Task::Create(_)));
        assert!(matches!(series.add(&event("A"), at(400)), Task::Create(_)));
        series.due(at(900));
        assert!(series.known.is_empty());
    }

    #[test]
    fn what_the_server_did_not_take_is_sent_anew() {
        let mut series = Series::default();
        let Task::Create(name) = series.add(&event("A"), at(0)) else { panic!("it is new") };
        series.forget(&name);
        assert!(matches!(series.add(&event("A"), at(1)), Task::Create(_)));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let mut series = Series::default();
        for number in 0..(KEPT + 50) {
            let event = Event { regarding: Regarding::Node(number.to_string()), ..event("A") };
            let second = i64::try_from(number).expect("it is small");
            assert!(matches!(series.add(&event, at(second)), Task::Create(_)));
        }
        assert_eq!(series.known.len(), KEPT);
    }
}
