//! A folder in which the command is run.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use secateur::demo;

/// The cache folder of all tests: none writes to the user's, and costs are measured once.
const CACHE: &str = env!("CARGO_TARGET_TMPDIR");

/// A folder with the embedded model and data.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        demo::unpack(folder.path()).unwrap();
        Place { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateur"));
        command.args(arguments).current_dir(self.folder.path());
        // Wide enough for all columns of these models' tables.
        command.env("NO_COLOR", "1").env("XDG_CACHE_HOME", CACHE).env("COLUMNS", "120");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The message of a command that must fail with this exit code.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message
    }
}

impl Place {
    /// Runs a command that takes so long in one go, killed up to `most` times at moments drawn by the seed; says how often it was.
    pub(crate) fn killed(&self, arguments: &[&str], whole: Duration, most: u64, seed: u64) -> u64 {
        let mut drawn = seed;
        for kills in 0..=most {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Early enough that it is killed on a machine that has less to do by then.
            let share = 0.05 + 0.4 * (drawn >> 33) as f64 / (1u64 << 31) as f64;
            let mut command = self.command(arguments);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let started = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if kills < most && started.elapsed() >= whole.mul_f64(share) {
                    child.kill().unwrap();
                    break;
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            let ended = child.wait_with_output().unwrap();
            // One that was killed has no code.
            if let Some(code) = ended.status.code() {
                assert_eq!(code, 0, "{}", String::from_utf8_lossy(&ended.stderr));
                return kills;
            }
        }
        unreachable!("the last one is not killed")
    }
}

/// Every file of a folder but the lock, by its path in it.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let inner = files(&path).into_iter();
            found.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name != "lock" {
            found.insert(name, bytes(&path));
        }
    }
    found
}

pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
