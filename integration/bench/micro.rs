//! What each stage between the API server and the kernel costs, in time and in allocations, at several
//! sizes of cluster: `cargo bench --bench micro`, or a part of it: `cargo bench --bench micro -- encode`.
//!
//! Nothing is sent anywhere: the API server is a list in memory, and what would go to the kernel is
//! dropped. docs/benchmarks-micro.md has a run.

#[path = "pipeline.rs"]
mod pipeline;

use std::collections::BTreeSet;

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use pipeline::{Api, Encoding, Form, Listed, Sink, Taking, Watching};
use sluice_core::model::Change;
use sluice_kernel::nft::encoded;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const SIZES: [u16; 3] = [1_000, 10_000, 50_000];

fn main() {
    divan::main();
}

/// Lists as the daemon's watch reads them, from the bytes of the connection to values of the model.
mod decode {
    use super::*;

    fn list(
        bencher: Bencher<'_, '_>,
        services: u16,
        (listed, form): (Listed, Form),
        encoding: Encoding,
    ) {
        let (api, _say) = Api::new(&pipeline::snapshot(services), listed, form, encoding);
        bencher
            .counter(ItemsCount::new(services))
            .counter(BytesCount::new(api.bytes()))
            .bench_local(|| Watching::start(&api));
    }

    /// A list of each kind, in both encodings.
    macro_rules! lists {
        ($($name:ident: $listed:ident, $form:ident;)*) => {
            mod json {
                use super::*;
                $(#[divan::bench(args = SIZES, sample_count = 10)]
                fn $name(bencher: Bencher<'_, '_>, services: u16) {
                    list(bencher, services, (Listed::$listed, Form::$form), Encoding::Json);
                })*
            }
            mod protobuf {
                use super::*;
                $(#[divan::bench(args = SIZES, sample_count = 10)]
                fn $name(bencher: Bencher<'_, '_>, services: u16) {
                    list(bencher, services, (Listed::$listed, Form::$form), Encoding::Protobuf);
                })*
            }
        };
    }

    lists! {
        slices_streamed: Slices, Streamed;
        slices_paged: Slices, Paged;
        slices_packed: Slices, Packed;
        services_streamed: Services, Streamed;
        services_paged: Services, Paged;
        services_packed: Services, Packed;
    }

    /// One event of a watch.
    #[divan::bench(args = [Encoding::Json, Encoding::Protobuf])]
    fn one_change(bencher: Bencher<'_, '_>, encoding: Encoding) {
        let snapshot = pipeline::snapshot(10);
        let (api, say) = Api::new(&snapshot, Listed::Slices, Form::Streamed, encoding);
        let mut watching = Watching::start(&api);
        let [_, slice] = pipeline::versions(&snapshot);
        let event = pipeline::modified(&slice, encoding);
        bencher.counter(BytesCount::new(event.len())).bench_local(|| {
            say.send(event.clone()).expect("the watch listens");
            watching.change()
        });
    }
}

/// When the next sync begins.
mod pace {
    #[divan::bench]
    fn thousand_changes(bencher: divan::Bencher<'_, '_>) {
        const CHANGES: u32 = 1_000;
        bencher
            .counter(divan::counter::ItemsCount::new(CHANGES))
            .bench_local(|| crate::pipeline::paced(divan::black_box(CHANGES)));
    }
}

/// From the state of the API to the forwarding table.
mod plan {
    use super::*;

    #[divan::bench(args = SIZES, sample_count = 10)]
    fn whole(bencher: Bencher<'_, '_>, services: u16) {
        let snapshot = pipeline::snapshot(services);
        bencher.counter(ItemsCount::new(services)).bench_local(|| pipeline::planner(&snapshot));
    }

    /// A slice changes, and the table follows.
    #[divan::bench(args = SIZES)]
    fn one_change(bencher: Bencher<'_, '_>, services: u16) {
        let mut snapshot = pipeline::snapshot(services);
        let mut planner = pipeline::planner(&snapshot);
        let mut versions = pipeline::versions(&snapshot).into_iter().cycle();
        bencher.with_inputs(|| versions.next().expect("it never ends")).bench_local_values(
            |slice| {
                let mut dirty = BTreeSet::new();
                snapshot.apply(Change::Slice(slice), &mut dirty);
                planner.update(&snapshot, &dirty)
            },
        );
    }
}

/// From the forwarding table to operations of the nftables mode, and what is kept of them.
mod render {
    use super::*;

    #[divan::bench(args = SIZES, sample_count = 10)]
    fn first_sync(bencher: Bencher<'_, '_>, services: u16) {
        let table = pipeline::table(&pipeline::snapshot(services));
        bencher.counter(ItemsCount::new(services)).bench_local(|| {
            let mut mode = Sink::new(Taking::Forgotten).mode();
            pipeline::first_sync(&mut mode, &table);
            mode
        });
    }

    #[divan::bench(args = SIZES)]
    fn one_change(bencher: Bencher<'_, '_>, services: u16) {
        let mut snapshot = pipeline::snapshot(services);
        let name = pipeline::versions(&snapshot)[0].service.clone();
        let mut tables = pipeline::versions(&snapshot).map(|slice| {
            snapshot.apply(Change::Slice(slice), &mut BTreeSet::new());
            pipeline::table(&snapshot)
        });
        let mut mode = Sink::new(Taking::Forgotten).mode();
        pipeline::first_sync(&mut mode, &tables[1]);
        bencher.bench_local(|| {
            tables.reverse();
            pipeline::sync(&mut mode, &tables[1], [name.clone()].into())
        });
    }
}

/// From operations to the messages of a transaction.
mod encode {
    use super::*;

    #[divan::bench(args = SIZES, sample_count = 10)]
    fn first_sync(bencher: Bencher<'_, '_>, services: u16) {
        let [first, _] = pipeline::transactions(services);
        let length = encoded(&pipeline::table_name(), &first).expect("it fits").len();
        bencher
            .counter(ItemsCount::new(services))
            .counter(BytesCount::new(length))
            .bench_local(|| encoded(&pipeline::table_name(), &first));
    }

    #[divan::bench]
    fn one_change(bencher: Bencher<'_, '_>) {
        let [_, change] = pipeline::transactions(1_000);
        bencher.bench_local(|| encoded(&pipeline::table_name(), &change));
    }
}
