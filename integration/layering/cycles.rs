//! Files of one crate lead to each other in one direction only, so that they can be read one after the
//! other. What a file takes from a module around it (`super::Error` in `mod.rs`) does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::rust::{self, Used};
use crate::{Source, sources};

/// A module of a crate: its names below the crate's root.
type Module = Vec<String>;

/// The files of a crate by the modules that they are, without those for tests.
struct Crate {
    files: BTreeMap<Module, File>,
}

struct File {
    path: PathBuf,
    code: String,
    /// What `use` declarations bring into the module.
    uses: Vec<Used>,
}

impl Crate {
    fn of(sources: Vec<Source>) -> Crate {
        let mut files = BTreeMap::new();
        let mut for_tests = BTreeSet::new();
        for source in sources {
            let module = module(&source);
            let declared = rust::declared(&source.code).into_iter();
            let tests = declared.filter(|(_, tests)| *tests).map(|(name, _)| below(&module, &name));
            for_tests.extend(tests);
            let code = rust::without_tests(&source.code);
            let uses = rust::uses(&code);
            files.insert(module, File { path: source.path, code, uses });
        }
        files.retain(|module, _| (0..=module.len()).all(|end| !for_tests.contains(&module[..end])));
        Crate { files }
    }

    /// The module whose file has what a path names, seen from a module.
    fn resolve(&self, from: &[String], path: &[String], patience: usize) -> Option<Module> {
        let mut at = from.to_vec();
        let mut rest = path;
        while let Some((first, behind)) = rest.split_first() {
            match first.as_str() {
                "crate" => at = Module::new(),
                "self" => {}
                "super" => {
                    at.pop()?;
                }
                name if self.files.contains_key(&below(&at, name)) => at = below(&at, name),
                name => return Some(self.reexported(&at, name, behind, patience).unwrap_or(at)),
            }
            rest = behind;
        }
        Some(at)
    }

    /// Where a name comes from that a module has from elsewhere.
    fn reexported(
        &self,
        at: &[String],
        name: &str,
        behind: &[String],
        patience: usize,
    ) -> Option<Module> {
        let brought = self.files.get(at)?.uses.iter().find(|used| used.name == name)?;
        let starts_here = brought.path.first().is_some_and(|first| {
            matches!(first.as_str(), "crate" | "self" | "super")
                || self.files.contains_key(&below(at, first))
        });
        if !starts_here || patience == 0 {
            return None;
        }
        let path: Vec<String> = brought.path.iter().chain(behind).cloned().collect();
        self.resolve(at, &path, patience - 1)
    }

    /// The other modules that each uses, but for those around it.
    fn arrows(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let mut arrows = BTreeMap::new();
        for (module, file) in &self.files {
            let begins = |first: &str| {
                matches!(first, "crate" | "self" | "super")
                    || self.files.contains_key(&below(module, first))
            };
            let to = rust::paths(&file.code, begins)
                .iter()
                .filter_map(|used| self.resolve(module, &used.path, 8))
                .filter(|other| !module.starts_with(other))
                .collect();
            arrows.insert(module, to);
        }
        arrows
    }

    /// Groups of files of which each leads to each.
    fn cycles(&self) -> BTreeSet<Vec<String>> {
        let arrows = self.arrows();
        let mut reached: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for module in arrows.keys() {
            let mut found = BTreeSet::new();
            let mut open = vec![*module];
            while let Some(next) = open.pop() {
                open.extend(arrows[next].iter().filter(|to| found.insert(*to)));
            }
            reached.insert(module, found);
        }
        let mut cycles = BTreeSet::new();
        for (module, found) in &reached {
            let together = found.iter().filter(|other| reached[*other].contains(*module));
            let names: BTreeSet<String> =
                together.map(|other| self.files[*other].path.display().to_string()).collect();
            if names.len() > 1 {
                cycles.insert(names.into_iter().collect());
            }
        }
        cycles
    }
}

fn below(module: &[String], name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn module(source: &Source) -> Module {
    let mut names: Module =
        source.path.iter().skip(1).map(|part| part.to_string_lossy().into_owned()).collect();
    let last = names.pop().unwrap_or_default();
    match last.as_str() {
        "mod.rs" | "lib.rs" => {}
        file => names.push(file.trim_end_matches(".rs").to_owned()),
    }
    names
}

#[test]
fn files_of_a_crate_form_no_cycles() {
    let mut crates: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    for source in sources().into_iter().filter(|source| !source.path.ends_with("main.rs")) {
        crates.entry(source.krate()).or_default().push(source);
    }
    let found: BTreeSet<Vec<String>> =
        crates.into_values().flat_map(|sources| Crate::of(sources).cycles()).collect();
    let found: Vec<String> = found.iter().map(|files| files.join(", ")).collect();
    assert!(found.is_empty(), "each of these files leads to each:\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned(), code: rust::code(text) }
    }

    #[test]
    fn a_cycle_is_found_through_groups_and_what_others_pass_on() {
        let files = |second: &str| {
            Crate::of(vec![
                source("x/lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod tests;\nuse b::B;"),
                source("x/a.rs", "use super::{B, other};\npub struct A;"),
                source("x/b.rs", second),
                source("x/tests.rs", "use crate::a::A;"),
            ])
        };
        assert_eq!(files("pub struct B;").cycles(), BTreeSet::new());
        let found = files("use crate::{a::A};").cycles();
        assert_eq!(found, BTreeSet::from([vec!["x/a.rs".to_owned(), "x/b.rs".to_owned()]]));
        assert_eq!(files("// crate::a::A\nfn f() { \"crate::a::A\"; }").cycles(), BTreeSet::new());
        assert_eq!(files("use super::tests::A;").cycles(), BTreeSet::new());
    }
}
