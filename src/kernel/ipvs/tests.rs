//! Messages against bytes written by hand from `linux/ip_vs.h`.

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};

use super::*;
use sluice_core::net::Family;

/// The message of an operation, with the family number 0x21 and the sequence number 7.
fn bytes(op: &Op) -> Vec<u8> {
    let payload = NetlinkPayload::InnerMessage(wire::message(0x21, wire::change(op)));
    let mut header = NetlinkHeader::default();
    (header.flags, header.sequence_number) = (5, 7);
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Bytes from hexadecimal text; what follows `#` in a line is for people.
fn hex(text: &str) -> Vec<u8> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or(line));
    let digits: String = lines.collect::<String>().split_whitespace().collect();
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex"))
        .collect()
}

fn web() -> Key {
    Key::Address { ip: [10, 96, 0, 80].into(), protocol: Protocol::Tcp, port: 80 }
}

fn dns() -> Key {
    let ip = "fd00:10:96::a".parse().expect("an address");
    Key::Address { ip, protocol: Protocol::Udp, port: 53 }
}

#[cfg(target_endian = "little")]
#[test]
fn a_service_is_written_as_the_kernel_reads_it() {
    let expected = hex("68000000 2100 0500 07000000 00000000  # header
         01 01 0000                            # NEW_SERVICE, version 1
         54000180                              # the service
         06000100 0200 0000                    # AF_INET
         06000200 0600 0000                    # TCP
         14000300 0a600050 00000000 00000000 00000000
         06000400 0050 0000                    # port 80
         07000600 727200 00                    # rr
         0c000700 00000000 ffffffff            # flags and mask
         08000800 00000000                     # timeout
         08000900 ffffffff                     # netmask");
    assert_eq!(bytes(&Op::AddService(Service::new(web(), &"rr".into()))), expected);

    let sticky = Service {
        persistence: Some(Persistence { timeout: 10_800, prefix: 128 }),
        ..Service::new(dns(), &"sh".into())
    };
    let expected = hex("68000000 2100 0500 07000000 00000000
         02 01 0000                            # SET_SERVICE
         54000180
         06000100 0a00 0000                    # AF_INET6
         06000200 1100 0000                    # UDP
         14000300 fd000010 00960000 00000000 0000000a
         06000400 0035 0000
         07000600 736800 00                    # sh
         0c000700 01000000 ffffffff            # persistent
         08000800 302a0000                     # 10800 s
         08000900 80000000                     # 128 bits");
    assert_eq!(bytes(&Op::SetService(sticky)), expected);
}

#[cfg(target_endian = "little")]
#[test]
fn a_destination_is_written_as_the_kernel_reads_it() {
    let to = Destination::new([10, 244, 1, 2].into(), 8080, 1);
    let service = "28000180
         06000100 0200 0000
         06000200 0600 0000
         14000300 0a600050 00000000 00000000 00000000
         06000400 0050 0000";
    // The nest above is 4 + 8 + 8 + 20 + 8 bytes long.
    let service = service.replacen("28", "30", 1);
    let head = |length: &str, command: &str| {
        format!("{length}000000 2100 0500 07000000 00000000 {command} 01 0000 {service}")
    };
    let named = "14000100 0af40102 00000000 00000000 00000000
         06000200 1f90 0000                    # port 8080
         06000b00 0200 0000                    # AF_INET";
    let whole = format!(
        "48000280 {named}
         08000300 00000000                     # by address translation
         08000400 01000000                     # weight
         08000500 00000000                     # thresholds
         08000600 00000000"
    );
    let add = hex(&format!("{}\n{whole}", head("8c", "05")));
    assert_eq!(bytes(&Op::AddDestination(web(), to)), add);
    let delete = hex(&format!("{}\n28000280 {named}", head("6c", "07")));
    assert_eq!(bytes(&Op::DeleteDestination(web(), to.ip, to.port)), delete);
}

#[test]
fn what_is_written_is_read_back() {
    let sticky = Service {
        persistence: Some(Persistence { timeout: 10, prefix: 24 }),
        packets: Scheduling::Packets,
        scheduler_flags: 0x10,
        engine: Some("sip".into()),
        ..Service::new(web(), &"mh".into())
    };
    let marked = Service::new(Key::Mark { family: Family::V6, mark: 7 }, &"wrr".into());
    for service in [sticky, marked, Service::new(dns(), &"rr".into())] {
        let sent = bytes(&Op::AddService(service.clone()));
        // After `struct nlmsghdr`.
        assert_eq!(wire::read_service(&sent[16..]), Some(service));
    }
    let to = Destination {
        forward: Forward::Direct,
        upper_threshold: 9,
        lower_threshold: 4,
        ..Destination::new("fd00::1".parse().expect("an address"), 53, 3)
    };
    let sent = bytes(&Op::AddDestination(dns(), to));
    let read = wire::read_destination(Family::V6, &sent[16..]).expect("it is one");
    assert_eq!((read.destination, read.active, read.persistent), (to, 0, 0));
}

#[test]
fn truncated_answers_are_passed_over() {
    let sent = bytes(&Op::AddService(Service::new(web(), &"rr".into())));
    for end in 16..sent.len() - 8 {
        assert_eq!(wire::read_service(&sent[16..end]), None, "cut at {end}");
    }
    assert_eq!(wire::read_info(&[]), None);
    assert_eq!(wire::read_timeouts(&[0; 3]), None);
}

#[test]
fn operations_name_their_object() {
    let to = Destination::new([10, 244, 1, 2].into(), 8080, 0);
    let said = Op::SetDestination(dns(), to).to_string();
    assert_eq!(said, "give destination 10.244.1.2:8080 of [fd00:10:96::a]:53/udp the weight 0");
    assert_eq!(Op::DeleteService(web()).to_string(), "delete virtual service 10.96.0.80:80/tcp");
}

#[cfg(target_endian = "little")]
#[test]
fn destinations_are_read_from_a_socket_option_as_the_kernel_writes_them() {
    let asked = socket_option::question(&web(), 2).expect("an IPv4 address");
    let header = hex("0600 0000 0a600050 0050 0000 00000000 02000000 00000000");
    assert_eq!(asked.len(), header.len() + 2 * 96);
    assert_eq!(asked[..24], header);
    let mut answer = header;
    answer.extend(hex("0af40102 1f90 0000      # the address, port 8080
         00010000 03000000                # by translation, weight 3
         07000000 05000000                # thresholds
         01000000 02000000 04000000       # connections"));
    answer.resize(24 + 2 * 96, 0);
    let found: Vec<_> = socket_option::entries(&answer).filter_map(socket_option::read).collect();
    let expected = ObservedDestination {
        destination: Destination {
            upper_threshold: 7,
            lower_threshold: 5,
            ..Destination::new([10, 244, 1, 2].into(), 8080, 3)
        },
        active: 1,
        inactive: 2,
        persistent: 4,
    };
    assert_eq!(found, [expected]);
    assert_eq!(socket_option::question(&dns(), 2), None, "IPv4 only");
}
