//! Enumerations in expressions: headers, properties, comparisons.

use sluice_core::net::Family;

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            pub(crate) fn number(self) -> u32 {
                match self { $($name::$variant => $number,)+ }
            }

            pub(crate) fn from_number(number: u32) -> Option<$name> {
                match number { $($number => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// A place in the packet (`enum nft_payload_bases`).
    PayloadBase {
        /// The link layer header.
        Link = 0,
        /// The IP header.
        Network = 1,
        /// The transport header.
        Transport = 2,
    }
}

numbered! {
    /// A property of the packet (`enum nft_meta_keys`).
    MetaKey {
        /// Its length.
        Length = 0,
        /// Its ethernet type.
        Protocol = 1,
        /// Its queueing priority.
        Priority = 2,
        /// Its mark.
        Mark = 3,
        /// Index of the interface it came from.
        InputIndex = 4,
        /// Index of the interface it goes to.
        OutputIndex = 5,
        /// Name of the interface it came from.
        InputName = 6,
        /// Name of the interface it goes to.
        OutputName = 7,
        /// User of the socket it comes from.
        SocketUser = 10,
        /// Whether it is traced.
        Trace = 12,
        /// Its IP family as `NFPROTO_*`.
        NfProto = 15,
        /// Its transport protocol.
        L4Proto = 16,
        /// Whether it was for this host, broadcast or multicast.
        PacketType = 19,
        /// The processor that handles it.
        Cpu = 20,
        /// A random number.
        Random = 24,
    }
}

numbered! {
    /// A property of the packet's connection (`enum nft_ct_keys`).
    CtKey {
        /// State, a bit mask: see [`ct_state`].
        State = 0,
        /// Whether the packet goes the way of the first one.
        Direction = 1,
        /// Status, a bit mask (`enum ip_conntrack_status`).
        Status = 2,
        /// Its mark.
        Mark = 3,
        /// Family, as `NFPROTO_*`.
        L3Proto = 7,
        /// Transport protocol.
        L4Proto = 10,
        /// Source port of one direction.
        SourcePort = 11,
        /// Destination port of one direction.
        DestinationPort = 12,
        /// IPv4 source address of one direction.
        SourceV4 = 19,
        /// IPv4 destination address of one direction.
        DestinationV4 = 20,
        /// IPv6 source address of one direction.
        SourceV6 = 21,
        /// IPv6 destination address of one direction.
        DestinationV6 = 22,
    }
}

numbered! {
    /// A property of the socket that a packet is for (`enum nft_socket_keys`).
    SocketKey {
        /// Whether it may have addresses that are not this host's (`IP_TRANSPARENT`): 0 or 1.
        Transparent = 0,
    }
}

/// Bits of [`CtKey::State`] (`NF_CT_STATE_BIT` in `nf_conntrack_common.h`).
pub mod ct_state {
    /// Not tracked correctly.
    pub const INVALID: u32 = 1;
    /// Packets went both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// The first packet.
    pub const NEW: u32 = 8;
}

/// Bits of [`CtKey::Status`] (`enum ip_conntrack_status`).
pub mod ct_status {
    /// The source is translated.
    pub const SNAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DNAT: u32 = 1 << 5;
}

numbered! {
    /// A direction of a connection.
    CtDirection {
        /// That of the first packet.
        Original = 0,
        /// The other.
        Reply = 1,
    }
}

numbered! {
    /// A comparison (`enum nft_cmp_ops`).
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Ne = 1,
        /// Less, by bytes: numbers must be in network byte order.
        Lt = 2,
        /// Less or equal.
        Le = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Ge = 5,
    }
}

numbered! {
    /// Within or outside a range (`enum nft_range_ops`).
    RangeOp {
        /// Within.
        Within = 0,
        /// Outside.
        Outside = 1,
    }
}

numbered! {
    /// A conversion (`enum nft_byteorder_ops`).
    ByteorderOp {
        /// Network to host.
        ToHost = 0,
        /// Host to network.
        ToNetwork = 1,
    }
}

numbered! {
    /// How numbers are generated (`enum nft_ng_types`).
    NumgenKind {
        /// Each is one more than the last.
        Increment = 0,
        /// Randomly.
        Random = 1,
    }
}

numbered! {
    /// What is translated (`enum nft_nat_types`).
    NatKind {
        /// The source.
        Snat = 0,
        /// The destination.
        Dnat = 1,
    }
}

numbered! {
    /// What a routing look-up gives (`enum nft_fib_result`).
    FibResult {
        /// Index of the outgoing interface.
        OutputIndex = 1,
        /// Name of the outgoing interface.
        OutputName = 2,
        /// Type of the address: see [`address_type`].
        AddressType = 3,
    }
}

/// Values of [`FibResult::AddressType`] (`RTN_*` in `rtnetlink.h`).
pub mod address_type {
    /// Of another program.
    pub const UNICAST: u32 = 1;
    /// This host's.
    pub const LOCAL: u32 = 2;
    /// A broadcast address.
    pub const BROADCAST: u32 = 3;
}

numbered! {
    /// What a rule does to a set (`enum nft_dynset_ops`).
    DynsetOp {
        /// Adds an element unless it is there.
        Add = 0,
        /// Adds an element or renews its timeout.
        Update = 1,
        /// Deletes an element.
        Delete = 2,
    }
}

numbered! {
    /// Unit of a rate, in seconds.
    LimitUnit {
        /// A second.
        Second = 1,
        /// A minute.
        Minute = 60,
        /// An hour.
        Hour = 3600,
        /// A day.
        Day = 86400,
    }
}

numbered! {
    /// Which packets a limit lets on (`NFT_LIMIT_F_INV`).
    LimitMatch {
        /// Those within the rate.
        Within = 0,
        /// Those beyond the rate.
        Beyond = 1,
    }
}

/// How address translation chooses a port (`NF_NAT_RANGE_*` in `nf_nat.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatFlags(pub(crate) u32);

impl NatFlags {
    /// The kernel's default.
    pub const NONE: NatFlags = NatFlags(0);
    /// From a hash of the addresses with a random offset.
    pub const RANDOM: NatFlags = NatFlags(1 << 2);
    /// The same address for every connection of a client.
    pub const PERSISTENT: NatFlags = NatFlags(1 << 3);
    /// At random.
    pub const FULLY_RANDOM: NatFlags = NatFlags(1 << 4);
    /// Those that a rule can ask for; the kernel adds others on its own.
    pub(crate) const ASKED: u32 = 1 << 2 | 1 << 3 | 1 << 4;
}

/// The route look-up (`enum nft_fib_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FibFlags(pub(crate) u32);

impl FibFlags {
    /// The source address.
    pub const SADDR: FibFlags = FibFlags(1);
    /// The destination address.
    pub const DADDR: FibFlags = FibFlags(2);
    /// Honouring the packet's mark.
    pub const MARK: FibFlags = FibFlags(4);
    /// On the interface that the packet came from.
    pub const IIF: FibFlags = FibFlags(8);
    /// On the interface that the packet goes to.
    pub const OIF: FibFlags = FibFlags(16);
}

impl std::ops::BitOr for FibFlags {
    type Output = FibFlags;

    fn bitor(self, other: FibFlags) -> FibFlags {
        FibFlags(self.0 | other.0)
    }
}

/// The answer to a rejected packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// With an ICMP (in `ip6` tables: ICMPv6) destination unreachable of this code.
    Icmp(u8),
    /// With the ICMP or ICMPv6 message that fits: 0 no route, 1 port, 2 host, 3 prohibited
    /// (`enum nft_reject_inet_code`); for tables of the `inet` and `bridge` families.
    Icmpx(u8),
    /// With a TCP reset; the rule must match TCP first.
    TcpReset,
}

impl Reject {
    /// What a bare `reject` means: port unreachable.
    pub fn port_unreachable(family: Family) -> Reject {
        match family {
            Family::V4 => Reject::Icmp(3),
            Family::V6 => Reject::Icmp(4),
        }
    }
}
