//! The flags of every command, and which flags a command has no use for. Commands share groups of flags; a flag of a group that a command would not
//! look at is hidden from its help and refused where it is given.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};

/// The flags of every command.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Number of threads [default: all cores]
    #[arg(long, global = true, value_name = "N", value_delimiter = ',', help_heading = "Global options")]
    pub(crate) threads: Vec<usize>,
    /// Random seed [default: 0]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    pub(crate) seed: Option<u64>,
    /// Read flags from a recipe file (TOML); flags on the command line win
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) recipe: Option<std::path::PathBuf>,
    /// Print the result as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Overwrite existing files
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) force: bool,
    /// Print only results and errors: no progress, no notes
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// When to colour the output; NO_COLOR turns colours off
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub(crate) color: crate::style::Colour,
}

/// Flags that commands do not use.
struct Unused {
    commands: &'static [&'static str],
    /// The flags' ids, which are their names with `_`.
    flags: &'static [&'static str],
    /// What to do instead, or why there is nothing to do.
    why: &'static str,
}

/// Commands that prune models only to measure them.
const MEASURING: &[&str] = &["sweep", "sensitivity", "sizes", "bench", "predict"];

/// Commands with none of the flags on pruning, data and sweeps.
const PLAIN: &[&str] = &[
    "inspect",
    "undo",
    "finalize",
    "convert",
    "pack",
    "unpack",
    "diff",
    "run",
    "methods",
    "completions",
    "man",
];

const UNUSED: &[Unused] = &[
    Unused { commands: MEASURING, flags: &["count"], why: "pass --sparsity" },
    Unused {
        commands: MEASURING,
        flags: &["masks", "keep_originals"],
        why: "pruned models are not kept; `secateur prune` writes one",
    },
    Unused {
        commands: &["sweep", "sensitivity"],
        flags: &["mask"],
        why: "apply the masks with `secateur prune --mask`, then measure the result",
    },
    Unused {
        commands: &["sensitivity"],
        flags: &["layer"],
        why: "each layer is pruned alone; choose layers with --include and --exclude",
    },
    Unused {
        commands: &["sensitivity"],
        flags: &["random_seeds"],
        why: "random methods are drawn once, with --seed",
    },
    Unused { commands: &["sensitivity"], flags: &["no_sizes"], why: "sizes are not measured" },
    Unused { commands: &["sensitivity"], flags: &["latency"], why: "`secateur sweep` times models" },
    Unused {
        commands: &["verify"],
        flags: &["mask", "masks", "keep_originals"],
        why: "zeros in the file are checked",
    },
    Unused {
        commands: &["verify"],
        flags: &["weights_only"],
        why: "only the weights of the layers are counted",
    },
    Unused {
        commands: &["prune"],
        flags: &["data", "samples", "outputs"],
        why: "--calibrate names the data to look at, --calibrate-samples how many",
    },
    Unused {
        commands: &["lottery"],
        flags: &["count", "of_remaining"],
        why: "each level prunes a share of what remains: pass --rate",
    },
    Unused {
        commands: &["lottery"],
        flags: &["mask", "masks", "keep_originals"],
        why: "the masks of each level are in its folder",
    },
    Unused {
        commands: &["lottery"],
        flags: &["schedule", "prune_start", "prune_end", "prune_every", "rounds", "until", "repair"],
        why: "it prunes between trainings: pass --levels and --rate",
    },
    Unused {
        commands: &["lottery"],
        flags: &["patience"],
        why: "every training runs to its end; early stops are found afterwards",
    },
    Unused {
        commands: &["lottery"],
        flags: &["teacher", "distill", "temperature"],
        why: "it trains from labels alone",
    },
    Unused { commands: PLAIN, flags: &["seed"], why: "nothing in it is random" },
    Unused { commands: &["verify"], flags: &["seed"], why: "nothing in it is random" },
    Unused { commands: PLAIN, flags: &["recipe"], why: "it takes none of the flags that a recipe can set" },
    Unused {
        commands: &["demo"],
        flags: &["recipe"],
        why: "it takes none of the flags that a recipe can set",
    },
    Unused {
        commands: &["verify", "diff", "predict", "eval", "methods", "completions"],
        flags: &["force"],
        why: "it writes no files",
    },
    Unused {
        commands: &["demo", "sweep", "sensitivity", "lottery"],
        flags: &["force"],
        why: "a run continues where it stopped; name another folder for another run",
    },
    Unused { commands: &["methods", "completions", "man"], flags: &["threads"], why: "it computes nothing" },
    Unused { commands: &["completions", "man"], flags: &["json"], why: "its output is for other programs" },
];

/// What a flag of a group means to single commands, where that differs from what the group says.
struct Said {
    commands: &'static [&'static str],
    flag: &'static str,
    help: &'static str,
}

const SAID: &[Said] = &[
    Said {
        commands: &["prune", "verify"],
        flag: "method",
        help: "The method, such as l1, l1@global, l2/channel, l1/2:4 or l1+erk: see `secateur methods`",
    },
    Said {
        commands: &["lottery"],
        flag: "method",
        help: "How each level prunes, such as l1, l1@global or l1/channel: see `secateur methods` [default: l1]",
    },
    Said {
        commands: &["lottery"],
        flag: "sparsity",
        help: "The share of zeros to go to, such as 0.96, instead of --levels",
    },
    Said {
        commands: &["lottery"],
        flag: "layer",
        help: "Override the rate of layers whose name matches: 'GLOB=SHARE'; the last match wins",
    },
    Said {
        commands: &["lottery"],
        flag: "validation",
        help: "Data that the early stop is found on, read as --data",
    },
    Said {
        commands: &["predict"],
        flag: "method",
        help: "The methods, such as l1, l1/2:4 or l1+erk: see `secateur methods` [default: l1,l1/4x1,l1/2:4,l1/channel]",
    },
    Said {
        commands: &["predict"],
        flag: "sparsity",
        help: "The sparsities, such as 0.8 or 80% [default: 0.5,0.7,0.8,0.9,0.95]",
    },
    Said {
        commands: &["bench"],
        flag: "sparsity",
        help: "The sparsities, such as 0.8 or 80%; required unless the method's pattern fixes it",
    },
    Said {
        commands: &["sweep"],
        flag: "step",
        help: "Step between sparsities, unless --sparsity lists them [default: 0.05]",
    },
    Said {
        commands: &["sensitivity"],
        flag: "step",
        help: "Step between sparsities, unless --sparsity lists them [default: 0.2]",
    },
];

/// Hides what the commands do not use, and says what the rest means to them.
pub(crate) fn hide(mut cli: Command) -> Command {
    for said in SAID {
        for name in said.commands {
            cli = cli.mut_subcommand(name, |command| command.mut_arg(said.flag, |arg| arg.help(said.help)));
        }
    }
    // A flag for all commands comes to each of them as the whole is built, unless the command has it already.
    let global: Vec<Arg> = cli.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for unused in UNUSED {
        for name in unused.commands {
            cli = cli.mut_subcommand(name, |command| {
                unused.flags.iter().fold(command, |command, &flag| {
                    match global.iter().find(|arg| arg.get_id() == flag) {
                        Some(arg) => command.arg(arg.clone().hide(true)),
                        None => command.mut_arg(flag, |arg| arg.hide(true)),
                    }
                })
            });
        }
    }
    cli
}

/// The sentence for a flag that was given to a command without a use for it.
pub(crate) fn refused(matches: &ArgMatches) -> Option<String> {
    let (name, given) = matches.subcommand()?;
    let of_command = UNUSED.iter().filter(|unused| unused.commands.contains(&name));
    let mut flags = of_command.flat_map(|unused| unused.flags.iter().map(move |flag| (flag, unused.why)));
    let (flag, why) = flags.find(|(flag, _)| given.value_source(flag) == Some(ValueSource::CommandLine))?;
    Some(format!("`secateur {name}` does not use --{}: {why}", flag.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_flag_of_the_table_is_a_flag_of_its_command() {
        let cli = hide(Cli::command());
        for unused in UNUSED {
            for name in unused.commands {
                let command = cli.find_subcommand(name).unwrap();
                for flag in unused.flags {
                    let arg = command.get_arguments().find(|arg| arg.get_id() == *flag);
                    assert!(arg.is_some_and(clap::Arg::is_hide_set), "{name} --{flag}");
                }
            }
        }
    }

    #[test]
    fn every_command_lists_its_flags_without_contradictions() {
        hide(Cli::command()).debug_assert();
    }

    #[test]
    fn other_flags_are_read_as_without_the_table() {
        let parse = |line: &str| hide(Cli::command()).try_get_matches_from(line.split(' '));
        let given = |matches: &ArgMatches| refused(matches);
        let sweep = parse("secateur sweep m.onnx -o run --data d.npz --ops Conv -m l1 --threads 2").unwrap();
        assert_eq!(given(&sweep), None);
        for line in ["secateur sweep m.onnx -o run --count 3", "secateur --seed 3 inspect m.onnx"] {
            assert!(given(&parse(line).unwrap()).is_some(), "{line}");
        }
        let seed = parse("secateur prune m.onnx -o p.onnx --seed 3").unwrap();
        assert_eq!(seed.subcommand().unwrap().1.get_one::<u64>("seed"), Some(&3));
        let help = parse("secateur sweep --help").unwrap_err().to_string();
        assert!(help.contains("--ops") && !help.contains("--count") && !help.contains("--force"), "{help}");
    }
}
