//! Real packets: sends them, many at a time, and judges what comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sluice_cluster::{Answer, Host, Probe};

use super::case::SourceSeen;
use super::oracle::{Outcome, Shot};
use super::wait::Wait;

/// How long an answer may take that must come.
const PATIENT: Duration = Duration::from_secs(20);

/// How long silence is listened to. An answer takes less than a millisecond; that a slow one is taken
/// for silence makes no test fail.
const QUIET: Duration = Duration::from_millis(150);

/// Concurrent checks: most of them only wait.
const PARALLEL: usize = 24;

/// Connections that must all go to one endpoint where there is affinity.
const STICKY: usize = 8;

/// The chance at which an endpoint that gets its share is missed, and the test fails for no reason: there are
/// some hundred thousand of them in a run of all modes.
const FALSE_ALARM: f64 = 1e-13;
/// Longest pause between connections that are to fall out of step with others, in microseconds.
const OUT_OF_STEP: u64 = 20_000;

/// The confidence that no endpoint beyond the expected ones gets a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rigour {
    /// One that takes an equal share is missed less than once in a million.
    Stated,
    /// A few connections more than the expected endpoints need.
    Generated,
}

/// A packet and its expected outcome.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) label: String,
    pub(crate) shot: Shot,
    pub(crate) outcome: Outcome,
    /// The node itself is addressed: what the proxy leaves alone is then refused by the node.
    pub(crate) to_node: bool,
    pub(crate) rigour: Rigour,
}

/// What the judge must know.
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a (dyn Fn(&str) -> Option<Host> + Sync),
    /// Addresses that node-a masquerades to.
    pub(crate) node: BTreeSet<IpAddr>,
    /// Where each client's affinity has led so far.
    pub(crate) affinity: Mutex<BTreeMap<String, SocketAddr>>,
}

/// Runs all checks and gives those that failed, each with what was seen.
pub(crate) fn run(scene: &Scene<'_>, checks: Vec<Check>) -> Vec<(Check, String)> {
    let queue = Mutex::new(VecDeque::from(checks));
    let failures = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(check) = next() {
                    if let Err(why) = scene.judge(&check) {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push((check, why));
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The same, and repeats what failed until it holds or patience ends: for changes that nothing tells
/// when the daemon has seen them.
pub(crate) fn run_until(
    scene: &Scene<'_>,
    mut checks: Vec<Check>,
    patience: Duration,
) -> Vec<(Check, String)> {
    let wait = Wait::new(patience);
    loop {
        let failures = run(scene, checks);
        if failures.is_empty() || !wait.again() {
            return failures;
        }
        checks = failures.into_iter().map(|(check, _)| check).collect();
    }
}

/// So many draws miss a given one of `shares` equal shares with probability `chance`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small positive numbers
fn draws(shares: usize, chance: f64) -> usize {
    if shares <= 1 {
        return 1;
    }
    let missed = 1.0 - 1.0 / u32::try_from(shares).map_or(1.0, f64::from);
    (chance.ln() / missed.ln()).ceil() as usize
}

impl Scene<'_> {
    fn judge(&self, check: &Check) -> Result<(), String> {
        let shot = &check.shot;
        let host =
            (self.host)(&shot.from).ok_or_else(|| format!("there is no host {}", shot.from))?;
        let probe = Probe::new(shot.protocol, shot.to).from_ip(shot.source);
        let probe = shot.source_port.map_or(probe, |port| probe.from_port(port));
        let ask = |timeout| host.probe(&probe.timeout(timeout)).map_err(|e| e.to_string());
        let silence = check.outcome == Outcome::Silence;
        // A datagram of an old flow is lost if the flow is deleted while it is in transit.
        let patience = if silence || shot.source_port.is_some() { QUIET } else { PATIENT };
        let fits = match &check.outcome {
            Outcome::Forward { to, affinity, .. } => {
                return self.spread(check, to, affinity.as_deref(), &|| ask(patience));
            }
            Outcome::Refuse => |answer: &Answer| *answer == Answer::Refused,
            Outcome::Silence => |answer: &Answer| *answer == Answer::Silent,
            // The gateway behind node-a prohibits everything, and node-a listens nowhere.
            Outcome::Pass if check.to_node => |answer: &Answer| *answer == Answer::Refused,
            Outcome::Pass => |answer: &Answer| matches!(answer, Answer::Unreachable(_)),
        };
        let mut answer = ask(patience)?;
        // A single datagram may be lost on a busy machine, and the node does not refuse an SCTP packet that
        // arrives while a probe of its own is between bind and connect, because its raw socket takes the
        // packet. What a rule drops stays silent.
        if answer == Answer::Silent && !silence && shot.source_port.is_none() {
            answer = ask(PATIENT)?;
        }
        if fits(&answer) {
            return Ok(());
        }
        Err(format!("expected {:?}, got: {answer}", check.outcome))
    }

    /// Makes connections until every endpoint was seen and enough others would have been.
    fn spread(
        &self,
        check: &Check,
        to: &BTreeMap<SocketAddr, SourceSeen>,
        affinity: Option<&str>,
        ask: &dyn Fn() -> Result<Answer, String>,
    ) -> Result<(), String> {
        let least = match check.rigour {
            Rigour::Stated => draws(to.len() + 1, 1e-6),
            Rigour::Generated => 2 + 2 * to.len(),
        };
        let most = match affinity {
            Some(_) => STICKY,
            None => draws(to.len(), FALSE_ALARM).max(least),
        };
        let mut seen: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for count in 1..=most {
            let answer = ask()?;
            let Answer::Answered { by, saw, local } = &answer else {
                return Err(format!("expected one of {:?}, got: {answer}", to.keys()));
            };
            let Some(source) = to.get(local) else {
                return Err(format!("{by} at {local} answered, expected one of {:?}", to.keys()));
            };
            self.check_source(check.shot.source, saw.ip(), *source)
                .map_err(|why| format!("{by} {why}"))?;
            if let Some(key) = affinity {
                let mut known = self.affinity.lock().unwrap_or_else(PoisonError::into_inner);
                let stays = *known.entry(key.to_owned()).or_insert(*local);
                if stays != *local {
                    return Err(format!("affinity led to {stays} before, now to {local}"));
                }
                if count == STICKY {
                    return Ok(());
                }
                continue;
            }
            *seen.entry(*local).or_default() += 1;
            if count >= least && seen.len() == to.len() {
                return Ok(());
            }
            if count >= least {
                // IPVS takes turns: where another check asks the same virtual service in step with
                // this one, each sees every other endpoint only.
                std::thread::sleep(Duration::from_micros(fastrand::u64(..OUT_OF_STEP)));
            }
        }
        let mut text = String::new();
        let missing = to.keys().filter(|endpoint| !seen.contains_key(endpoint));
        let _ = write!(text, "{:?} not seen in {most} connections", missing.collect::<Vec<_>>());
        Err(text)
    }

    fn check_source(&self, sent: IpAddr, saw: IpAddr, wanted: SourceSeen) -> Result<(), String> {
        let fits = match wanted {
            SourceSeen::Kept => saw == sent,
            SourceSeen::Masqueraded => self.node.contains(&saw),
        };
        if fits { Ok(()) } else { Err(format!("saw {saw} as the source, expected it {wanted:?}")) }
    }
}
