//! The client against a script of datagrams, and once against this kernel.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::attributes::Writer;
use super::client::Transport;
use super::*;

/// What is received, one after the other, and what was sent.
#[derive(Default)]
struct Script {
    receive: VecDeque<Step>,
    sent: Vec<Vec<u8>>,
    current: Vec<u8>,
}

enum Step {
    Datagram(Vec<u8>),
    Overrun,
}

impl Transport for Script {
    fn send(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        self.sent.push(bytes.to_vec());
        Ok(())
    }

    fn receive(&mut self, wait: Wait) -> Result<Received<'_>, SocketError> {
        match (self.receive.pop_front(), wait) {
            (Some(Step::Datagram(bytes)), _) => {
                self.current = bytes;
                Ok(Received::Datagram(&self.current))
            }
            (Some(Step::Overrun), _) => Ok(Received::Overrun),
            (None, Wait::Not) => Ok(Received::Nothing),
            (None, Wait::Patiently) => Err(SocketError::Timeout { seconds: 10 }),
        }
    }
}

fn client(steps: impl IntoIterator<Item = Step>) -> Client<Script> {
    Client::new(Script { receive: steps.into_iter().collect(), ..Script::default() })
}

/// A datagram of messages: type, flags, sequence number and content.
fn datagram(messages: &[(u16, u16, u32, &[u8])]) -> Step {
    let mut writer = Writer::default();
    for (kind, flags, sequence, content) in messages {
        let message = writer.begin(*kind, *flags, *sequence);
        writer.append(content);
        writer.end_message(message);
    }
    Step::Datagram(writer.into_bytes())
}

/// The content of an answer, as it is capped.
fn answer(errno: i32) -> Vec<u8> {
    let mut content = (-errno).to_ne_bytes().to_vec();
    content.extend_from_slice(&[0; 16]);
    content
}

fn link() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

const ITEM: u16 = 16;
const CAPPED: u16 = 0x100;

#[test]
fn of_many_changes_only_the_last_is_acknowledged_and_each_refusal_finds_its_own() {
    // 130 changes are 128 and 2; the second group has the numbers from 129 on.
    let refusal = |number, errno| datagram(&[(NLMSG_ERROR, CAPPED, number, &answer(errno))]);
    let mut client = client([
        refusal(1, libc::EEXIST),
        refusal(7, libc::ENOENT),
        datagram(&[(NLMSG_ERROR, CAPPED, 128, &answer(0))]),
        refusal(130, libc::EPERM),
    ]);
    let changes = (0..130).map(|_| (link(), 0));
    let results = client.change(changes).expect("the kernel answers");
    let refused: Vec<(usize, i32)> = results
        .iter()
        .enumerate()
        .filter_map(|(index, result)| Some((index, result.as_ref().err()?.errno)))
        .collect();
    assert_eq!(results.len(), 130);
    assert_eq!(refused, [(0, libc::EEXIST), (6, libc::ENOENT), (129, libc::EPERM)]);

    let sent = &client.transport().sent;
    let of_group = |group: &[u8]| -> Vec<(u32, bool)> {
        messages(group).map(|m| (m.sequence, m.flags & NLM_F_ACK != 0)).collect()
    };
    assert_eq!(sent.len(), 2, "one system call for each group");
    let first = of_group(&sent[0]);
    assert_eq!((first.len(), first[127]), (128, (128, true)));
    assert!(first[..127].iter().all(|(_, acknowledged)| !acknowledged));
    assert_eq!(of_group(&sent[1]), [(129, false), (130, true)]);
}

#[test]
fn nothing_to_change_is_not_sent() {
    let mut client = client([]);
    assert!(client.change::<RouteNetlinkMessage>([]).expect("nothing is easily done").is_empty());
    assert!(client.transport().sent.is_empty());
}

#[test]
fn answers_to_another_question_are_passed_over() {
    let late = [
        (ITEM, NLM_F_MULTIPART, 77, &[9; 4][..]),
        (NLMSG_DONE, NLM_F_MULTIPART, 77, &[0; 4]),
        (ITEM, NLM_F_MULTIPART, 1, &[1; 4]),
    ];
    let mut client =
        client([datagram(&late), datagram(&[(NLMSG_DONE, NLM_F_MULTIPART, 1, &[0; 4])])]);
    let found = client.list(link(), |content| Some(content.to_vec())).expect("it is read");
    assert_eq!(found, [[1; 4]]);
}

#[test]
fn a_list_that_changed_is_read_again_and_given_up_at_last() {
    let interrupted = || {
        datagram(&[
            (ITEM, NLM_F_MULTIPART, 1, &[1; 4]),
            (ITEM, NLM_F_MULTIPART | NLM_F_DUMP_INTR, 1, &[2; 4]),
            (NLMSG_DONE, NLM_F_MULTIPART | NLM_F_DUMP_INTR, 1, &[0; 4]),
        ])
    };
    let complete =
        datagram(&[(ITEM, NLM_F_MULTIPART, 1, &[3; 4]), (NLMSG_DONE, NLM_F_MULTIPART, 1, &[0; 4])]);
    let mut twice = client([interrupted(), complete]);
    let found = twice.list(link(), |content| Some(content.to_vec())).expect("it is read");
    assert_eq!(found, [[3; 4]], "nothing of the first reading is left");

    let mut always = client((0..8).map(|_| interrupted()));
    let error = always.list(link(), |content| Some(content.to_vec())).expect_err("never the same");
    assert!(matches!(error, NetlinkError::Interrupted), "{error}");
}

#[test]
fn a_refusal_ends_a_question_and_says_why() {
    let mut client = client([datagram(&[(NLMSG_ERROR, CAPPED, 1, &answer(libc::ENODEV))])]);
    let error = client.ask(link(), |_| panic!("there is nothing")).expect_err("it is refused");
    assert!(
        matches!(&error, NetlinkError::Refused(refusal) if refusal.errno == libc::ENODEV),
        "{error}"
    );
}

#[test]
fn an_answer_of_one_message_is_not_waited_for_any_longer() {
    let mut client = client([datagram(&[(ITEM, 0, 5, &[1; 4])])]);
    let mut found = 0;
    let end = client.exchange(&[], 5, Answer::One, |_| found += 1).expect("it is answered");
    assert_eq!((end, found), (End::Complete, 1));
    let silent = client.exchange(&[], 6, Answer::One, |_| {}).expect_err("nothing comes");
    assert!(matches!(silent, SocketError::Timeout { .. }), "{silent}");
}

/// The refusals that are there are reported, and nobody waits for the last answer, which may be among those
/// that were lost.
#[test]
fn after_an_overrun_a_batch_says_what_it_knows() {
    let refusal = |number| datagram(&[(NLMSG_ERROR, CAPPED, number, &answer(libc::EEXIST))]);
    let mut client = client([refusal(2), Step::Overrun, refusal(4)]);
    let mut refused = Vec::new();
    let heard = client.transmit(&[], 1..=9, |number, _| {
        refused.push(number);
        ControlFlow::Continue(())
    });
    assert_eq!((heard.expect("some were heard"), refused), (Heard::Some, vec![2, 4]));

    let mut client = self::client([Step::Overrun]);
    let error = client.change([(link(), 0)]).expect_err("nothing is known");
    assert!(matches!(error, NetlinkError::Socket(SocketError::Overrun)), "{error}");
    let mut client = self::client([Step::Overrun]);
    let error = client.list(link(), |_| Some(())).expect_err("a part is no list");
    assert!(matches!(error, NetlinkError::Socket(SocketError::Overrun)), "{error}");
}

#[test]
fn sequence_numbers_never_begin_at_zero() {
    let mut client = client([]);
    assert_eq!(client.take_sequence(5), 1);
    assert_eq!(client.take_sequence(u32::MAX - 6), 6);
    assert_eq!(client.take_sequence(1), 1, "they begin anew");
}

#[test]
fn this_kernel_lists_and_refuses() {
    let mut client = Client::open(NETLINK_ROUTE).expect("every kernel has rtnetlink");
    // `struct ifinfomsg`: the index comes after family and type.
    let index = |content: &[u8]| content.get(4..8)?.first_chunk().map(|b| u32::from_ne_bytes(*b));
    let links = client.list(link(), index).expect("links can be listed");
    let lo = nix::net::if_::if_nametoindex("lo").expect("there is always a loopback device");
    assert!(links.contains(&lo), "{lo} in {links:?}");

    let mut nobody = LinkMessage::default();
    nobody.header.index = i32::MAX.unsigned_abs();
    let asked = client.ask(RouteNetlinkMessage::GetLink(nobody), |_| {});
    let error = asked.expect_err("there is no such link");
    assert!(
        matches!(&error, NetlinkError::Refused(refusal) if refusal.errno == libc::ENODEV),
        "{error}"
    );
    assert!(client.list(link(), index).is_ok(), "it goes on after a refusal");
}
