//! The paths whose instructions are counted.

use std::collections::BTreeSet;
use std::hint::black_box;

use sluice_kernel::nft::encoded;

use crate::pipeline::{self, Api, Encoding, Form, Listed, Sink, Taking, Watching};

/// What valgrind knows [`counted_region`] by, whatever the compiler makes of its name.
pub(crate) const REGION: &str = "*counted_region*";

/// Instructions in here count. Nothing in it may have a name like its own, which would end the count.
#[inline(never)]
fn counted_region(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

/// A path from the API server to the kernel, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    DecodeSlices,
    DecodeServices,
    DecodeSlicesJson,
    DecodeServicesJson,
    Plan,
    FirstSync,
    EncodeFirst,
    Pacing,
    ChangeAtThousand,
    ChangeAtTenThousand,
}

impl Path {
    pub(crate) const ALL: [Path; 10] = [
        Path::DecodeSlices,
        Path::DecodeServices,
        Path::DecodeSlicesJson,
        Path::DecodeServicesJson,
        Path::Plan,
        Path::FirstSync,
        Path::EncodeFirst,
        Path::Pacing,
        Path::ChangeAtThousand,
        Path::ChangeAtTenThousand,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Path::DecodeSlices => "decode-slices-protobuf-1000",
            Path::DecodeServices => "decode-services-protobuf-1000",
            Path::DecodeSlicesJson => "decode-slices-1000",
            Path::DecodeServicesJson => "decode-services-1000",
            Path::Plan => "plan-1000",
            Path::FirstSync => "first-sync-1000",
            Path::EncodeFirst => "encode-first-sync-1000",
            Path::Pacing => "pacing-1000-changes",
            Path::ChangeAtThousand => "one-change-at-1000",
            Path::ChangeAtTenThousand => "one-change-at-10000",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Path> {
        Path::ALL.into_iter().find(|path| path.name() == name)
    }

    /// What it is, in words.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Path::DecodeSlices => "from a streamed list in protobuf to 1,000 EndpointSlices",
            Path::DecodeServices => "from a streamed list in protobuf to 1,000 Services",
            Path::DecodeSlicesJson => "from a streamed list in JSON to 1,000 EndpointSlices",
            Path::DecodeServicesJson => "from a streamed list in JSON to 1,000 Services",
            Path::Plan => "the forwarding table of 1,000 Services",
            Path::FirstSync => "the operations that write a table of 1,000 Services",
            Path::EncodeFirst => "the netlink messages of those operations",
            Path::Pacing => "when to sync, decided for 1,000 changes in a row",
            Path::ChangeAtThousand | Path::ChangeAtTenThousand => {
                "from the event of a watch to the netlink messages of one endpoint more"
            }
        }
    }

    /// Runs it once, with everything it needs made before the count begins.
    pub(crate) fn run(self) {
        match self {
            Path::DecodeSlices => decode(Listed::Slices, Encoding::Protobuf),
            Path::DecodeServices => decode(Listed::Services, Encoding::Protobuf),
            Path::DecodeSlicesJson => decode(Listed::Slices, Encoding::Json),
            Path::DecodeServicesJson => decode(Listed::Services, Encoding::Json),
            Path::Plan => {
                let snapshot = pipeline::snapshot(1_000);
                counted_region(&mut || {
                    black_box(pipeline::planner(&snapshot));
                });
            }
            Path::FirstSync => {
                let table = pipeline::table(&pipeline::snapshot(1_000));
                let mut mode = Sink::new(Taking::Forgotten).mode();
                counted_region(&mut || {
                    black_box(pipeline::first_sync(&mut mode, &table));
                });
            }
            Path::EncodeFirst => {
                let [first, _] = pipeline::transactions(1_000);
                let table = pipeline::table_name();
                counted_region(&mut || {
                    black_box(encoded(&table, &first).expect("it fits"));
                });
            }
            Path::Pacing => counted_region(&mut || {
                black_box(pipeline::paced(black_box(1_000)));
            }),
            Path::ChangeAtThousand => change(1_000),
            Path::ChangeAtTenThousand => change(10_000),
        }
    }
}

fn decode(listed: Listed, encoding: Encoding) {
    let api =
        |services| Api::new(&pipeline::snapshot(services), listed, Form::Streamed, encoding).0;
    // What happens only once in a process.
    drop(Watching::start(&api(10)));
    let api = api(1_000);
    counted_region(&mut || {
        black_box(Watching::start(&api));
    });
}

/// An endpoint more, from the event of a watch to the transaction. Two changes before it, that are not
/// counted, leave everything as it is in a daemon that has been running.
fn change(services: u16) {
    let mut snapshot = pipeline::snapshot(services);
    let mut planner = pipeline::planner(&snapshot);
    let sink = Sink::new(Taking::Encoded);
    let mut mode = sink.mode();
    pipeline::first_sync(&mut mode, planner.table());
    let encoding = Encoding::Protobuf;
    let (api, say) = Api::new(&pipeline::snapshot(10), Listed::Slices, Form::Streamed, encoding);
    let mut watching = Watching::start(&api);
    let [fewer, more] =
        pipeline::versions(&snapshot).map(|slice| pipeline::modified(&slice, encoding));
    let mut step = |line: &bytes::Bytes| {
        say.send(line.clone()).expect("the watch listens");
        let mut dirty = BTreeSet::new();
        snapshot.apply(watching.change(), &mut dirty);
        let effect = planner.update(&snapshot, &dirty);
        black_box(pipeline::sync(&mut mode, planner.table(), effect.services));
    };
    step(&more);
    step(&fewer);
    counted_region(&mut || step(&more));
    assert!(sink.void().bytes > 0, "a transaction was written");
}
