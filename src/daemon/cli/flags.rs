//! Flags that have a field in the configuration file, in the syntax of Go's pflag.
//!
//! `flag_table.rs` has a row for each; this is their parsing and their effect on a configuration. Precedence
//! is upstream's (`cmd/kube-proxy/app/options.go`, Complete): with `--config` only the log flags are used.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::flag_table::{FLAGS, Flag, Scope, Shape, Target};
use sluice_config::{HEALTHZ_PORT, KubeProxyConfiguration, METRICS_PORT, Mode, with_port};

/// The flags that were given, each with its value.
#[derive(Clone, Default)]
pub(super) struct FieldFlags(Vec<(&'static Flag, String)>);

impl std::fmt::Debug for FieldFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(flag, value)| (flag.name, value))).finish()
    }
}

impl FieldFlags {
    /// The configuration that the flags say, with defaults.
    pub(super) fn configuration(&self) -> KubeProxyConfiguration {
        let wire = KubeProxyConfiguration {
            api_version: "kubeproxy.config.k8s.io/v1alpha1".to_owned(),
            kind: "KubeProxyConfiguration".to_owned(),
            ..KubeProxyConfiguration::default()
        };
        let mut target = Target { wire: wire.with_defaults(), ..Target::default() };
        self.apply(&mut target, |_| true);
        target.finish().for_linux()
    }

    /// Names and values, the last one of a flag last.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(flag, value)| (flag.name, value.as_str()))
    }

    /// Applies the flags that may change the file's configuration.
    pub(super) fn override_logging(&self, wire: KubeProxyConfiguration) -> KubeProxyConfiguration {
        let mut target = Target { wire, ..Target::default() };
        // The flags' patterns go before the file's.
        let patterns = std::mem::take(&mut target.wire.logging.vmodule);
        self.apply(&mut target, |flag| flag.scope == Scope::Logging);
        target.wire.logging.vmodule.extend(patterns);
        target.wire
    }

    fn apply(&self, target: &mut Target, wanted: impl Fn(&Flag) -> bool) {
        for (flag, value) in self.0.iter().filter(|(flag, _)| wanted(flag)) {
            // It was tried when the command line was read.
            let _ = (flag.set)(target, value);
        }
    }

    /// Warnings about flags without effect, with or without a file.
    pub(super) fn warnings(&self, with_file: bool) -> Vec<String> {
        let reason = |flag: &Flag| match flag.scope {
            Scope::Nothing => Some(format!("--{} has no effect: {}", flag.name, flag.help)),
            Scope::Field | Scope::Deprecated if with_file => {
                Some(format!("--{} is ignored because --config is given", flag.name))
            }
            Scope::Deprecated => Some(format!("--{} is deprecated: {}", flag.name, flag.help)),
            Scope::Field | Scope::Logging => None,
        };
        let mut warnings: Vec<String> =
            self.0.iter().filter_map(|(flag, _)| reason(flag)).collect();
        warnings.dedup();
        warnings
    }
}

impl Target {
    /// Puts the values whose place depends on the mode into place. Upstream has one pair of sync periods
    /// for all modes, with the defaults of iptables.
    fn finish(self) -> KubeProxyConfiguration {
        let Target { mut wire, .. } = self;
        let mode = Mode::from_name(&wire.mode);
        let (period, min) = (wire.iptables.sync_period, wire.iptables.min_sync_period);
        let (given, given_min) = match mode {
            Some(Mode::Ipvs) => (self.ipvs_period, self.ipvs_min_period),
            Some(Mode::Nftables | Mode::Iptables | Mode::Userspace) | None => {
                (self.iptables_period, self.iptables_min_period)
            }
        };
        let (period, min) = (given.unwrap_or(period), given_min.unwrap_or(min));
        let all = self.masquerade_all.unwrap_or_default();
        match mode {
            Some(Mode::Nftables) => {
                let section = &mut wire.nftables;
                section.masquerade_all = all;
                (section.sync_period, section.min_sync_period) = (period, min);
            }
            Some(Mode::Ipvs) => {
                wire.iptables.masquerade_all = all;
                (wire.ipvs.sync_period, wire.ipvs.min_sync_period) = (period, min);
            }
            Some(Mode::Iptables | Mode::Userspace) | None => {
                let section = &mut wire.iptables;
                section.masquerade_all = all;
                (section.sync_period, section.min_sync_period) = (period, min);
            }
        }
        let ports = [
            (&mut wire.healthz_bind_address, self.healthz_port, HEALTHZ_PORT),
            (&mut wire.metrics_bind_address, self.metrics_port, METRICS_PORT),
        ];
        for (address, port, default) in ports {
            // Zero is off; otherwise the port goes to an address that has none.
            match port {
                Some(0) => address.clear(),
                port => *address = with_port(address, port.unwrap_or(default)),
            }
        }
        wire
    }
}

impl Args for FieldFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        FieldFlags::augment_args(command)
    }
}

impl FromArgMatches for FieldFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<FieldFlags, clap::Error> {
        let mut given = FieldFlags::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for flag in FLAGS {
            let values = matches.try_get_many::<String>(flag.name);
            let values = values.map_err(|e| clap::Error::raw(ErrorKind::UnknownArgument, e))?;
            self.0.extend(values.into_iter().flatten().map(|value| (flag, value.clone())));
        }
        Ok(())
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let arg =
        Arg::new(flag.name).long(flag.name).help(flag.help).action(ArgAction::Append).value_parser(
            |text: &str| (flag.set)(&mut Target::default(), text).map(|()| text.to_owned()),
        );
    let arg = if flag.name == "v" { arg.short('v') } else { arg };
    let arg = if flag.scope == Scope::Nothing { arg.hide(true) } else { arg };
    match flag.shape {
        Shape::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL"),
        Shape::Value(name) => arg.allow_hyphen_values(true).value_name(name),
    }
}

/// Brings arguments into the form that clap reads: underscores in names of flags are dashes (upstream:
/// `staging/src/k8s.io/component-base/cli/flag/flags.go`, WordSepNormalizeFunc).
pub(super) fn normalized(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = Vec::new();
    for argument in arguments {
        match argument.to_str() {
            Some(text) if text.starts_with("--") => {
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (text, None),
                };
                let name = name.replace('_', "-");
                rest.push(value.map_or_else(|| name.clone(), |v| format!("{name}={v}")).into());
            }
            _ => rest.push(argument),
        }
    }
    rest
}
