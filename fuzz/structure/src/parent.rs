//! Drives children and collects finds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::Options;
use crate::child;
use crate::structure::damage::Case;

/// Seeds for a child: a leak would not show where they were few, a crash costs little where they are not many.
const BATCH: u64 = 5000;

/// What happened to a seed.
enum Event {
    Started(u64),
    Done { read: bool, planned: bool, ran: bool, peak: u64 },
    Panicked,
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    read: u64,
    planned: u64,
    ran: u64,
    finds: u64,
    /// The most memory that a seed took, in MiB.
    peak: u64,
    /// Finds by what they have in common.
    kinds: BTreeMap<String, (u64, u64)>,
}

/// Runs children until all seeds are through.
pub fn run(options: &Options) {
    let cases = child::cases(options);
    println!("{} cases", cases.len());
    let start = Instant::now();
    let mut totals = Totals::default();
    let end = options.from.saturating_add(options.count);
    let mut next = options.from;
    while next < end {
        next = batch(options, &cases, next, BATCH.min(end - next), &mut totals);
        println!(
            "{:.0} s: seed {next}: {} models, {} read, {} planned, {} ran, {} MiB at most; {} finds of {} kinds",
            start.elapsed().as_secs_f64(),
            totals.seeds,
            totals.read,
            totals.planned,
            totals.ran,
            totals.peak,
            totals.finds,
            totals.kinds.len()
        );
    }
    for (kind, (count, seed)) in &totals.kinds {
        println!("{count:6}  seed {seed}  {kind}");
    }
}

/// The CPU time of a process in seconds.
fn cpu_seconds(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Runs one child; the seed behind its last one.
fn batch(options: &Options, cases: &[Case], from: u64, count: u64, totals: &mut Totals) -> u64 {
    let log = options.finds.join(format!("stderr-{}", std::process::id()));
    std::fs::create_dir_all(&options.finds).expect("a folder for finds");
    let errors = std::fs::File::create(&log).expect("a log");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", "--data"])
        .arg(&options.data)
        .args(["--from", &from.to_string(), "--count", &count.to_string(), "--only", &options.only])
        .args(["--limit-mb", &options.limit_mb.to_string()])
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .expect("a child");
    let out = child.stdout.take().expect("its output");
    let (send, events) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
            let event = match words[0] {
                "seed" => Event::Started(number(1)),
                "done" => Event::Done {
                    read: number(1) == 1,
                    planned: number(2) == 1,
                    ran: number(3) == 1,
                    peak: number(4),
                },
                _ => Event::Panicked,
            };
            if send.send(event).is_err() {
                break;
            }
        }
    });
    let mut at: Option<u64> = None;
    let mut cpu = 0.0;
    let mut since = Instant::now();
    let mut next = from;
    loop {
        match events.recv_timeout(Duration::from_millis(500)) {
            Ok(Event::Started(seed)) => {
                (at, next) = (Some(seed), seed + 1);
                (cpu, since) = (cpu_seconds(&child), Instant::now());
                totals.seeds += 1;
            }
            Ok(Event::Done { read, planned, ran, peak }) => {
                totals.read += u64::from(read);
                totals.planned += u64::from(planned);
                totals.ran += u64::from(ran);
                totals.peak = totals.peak.max(peak);
                at = None;
            }
            Ok(Event::Panicked) => {
                if let Some(seed) = at.take() {
                    let text = text_of(&log, seed);
                    find(options, cases, seed, "panic", &text, totals);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let Some(seed) = at else { continue };
                let used = cpu_seconds(&child) - cpu;
                if used > options.seconds || since.elapsed() > Duration::from_secs(120) {
                    let trace = stack(&child);
                    let _ = child.kill();
                    let text = format!("no end after {used:.1} s of CPU time\n{trace}");
                    find(options, cases, seed, "hang", &text, totals);
                    at = None;
                    break;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().expect("the child's end");
    reader.join().expect("the reader");
    if let Some(seed) = at {
        let text = format!("{status}\n{}", text_of(&log, seed));
        find(options, cases, seed, "abort", &text, totals);
    }
    let _ = std::fs::remove_file(&log);
    next
}

/// What the child said of a seed.
fn text_of(log: &std::path::Path, seed: u64) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let own = text.split_once(&format!("SEED {seed}\n")).map_or(&text[..], |(_, own)| own);
    own.split("SEED ").next().unwrap_or_default().to_string()
}

/// Where a process is, by a debugger where there is one.
fn stack(child: &Child) -> String {
    let output = Command::new("gdb")
        .args(["-batch", "-ex", "thread apply all bt 40", "-p", &child.id().to_string()])
        .stdin(Stdio::null())
        .output();
    output.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What finds of one kind have in common: where the panic was, and the first functions of the project in the trace.
fn kind_of(how: &str, text: &str) -> String {
    if text.contains("overflowed its stack") {
        return format!("{how}: stack overflow");
    }
    let mut places: Vec<&str> = Vec::new();
    let panicked = text.lines().find_map(|line| line.strip_prefix("PANIC panicked at "));
    places.extend(panicked.map(|place| place.trim_end_matches(':')));
    for line in text.lines() {
        let names = ["secateur_model::", "secateur_runtime::", "secateur_kernels::", "secateur::"];
        let Some(at) = names.iter().filter_map(|name| line.find(name)).min() else { continue };
        let end = line[at..].find([' ', '<', '(', '>']).map_or(line.len(), |len| at + len);
        let place = &line[at..end];
        if !places.contains(&place) {
            places.push(place);
        }
        if places.len() == 3 {
            break;
        }
    }
    format!("{how}: {}", places.join(" < "))
}

fn find(options: &Options, cases: &[Case], seed: u64, how: &str, text: &str, totals: &mut Totals) {
    let kind = kind_of(how, text);
    totals.finds += 1;
    let entry = totals.kinds.entry(kind.clone()).or_insert((0, seed));
    entry.0 += 1;
    if entry.0 > 3 {
        return;
    }
    let (case, damaged) = child::damaged(cases, seed);
    println!("seed {seed}: {kind}  [{}]", case.name);
    let name = format!("{how}-{seed}");
    child::write(&options.finds, &name, &damaged);
    let mut report = format!("{kind}\ncase: {}\n", case.name);
    damaged.damage.iter().for_each(|one| {
        let _ = writeln!(report, "damage: {one}");
    });
    let _ = write!(report, "\n{text}");
    std::fs::write(options.finds.join(format!("{name}.txt")), report).expect("a report");
}
