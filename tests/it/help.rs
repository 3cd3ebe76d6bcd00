//! Every command's `--help`, word for word, in tests/it/help/, so that a review shows how a change affects the texts.
//! `RTP_BLESS=1 cargo test --test it help` rewrites them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The width of the texts, whatever the terminal.
const WIDTH: &str = "100";

/// What `rtp COMMAND... --help` prints, without the trailing blanks of its empty lines.
fn help(command: &[String]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_rtp"))
        .args(command)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", WIDTH)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{command:?}");
    assert!(out.stderr.is_empty(), "{command:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .map(|line| line.trim_end().to_string() + "\n")
        .collect()
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty()) // a line that goes on
        .map(String::from)
        .collect()
}

/// The texts by name: `rtp` for rtp itself, a command's name, `command-name` for a command's command.
fn texts() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut todo: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = todo.pop() {
        let text = help(&command);
        for name in commands(&text) {
            todo.push([&command[..], &[name]].concat());
        }
        let name = match command.join("-") {
            name if name.is_empty() => "rtp".to_string(),
            name => name,
        };
        assert_eq!(texts.insert(name.clone(), text), None, "{name}");
    }
    texts
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/help")
}

/// The stored texts by command.
fn stored() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.strip_suffix(".txt").unwrap_or(name).to_string(), text)
        })
        .collect()
}

/// The differences between both, for people.
fn differences(stored: &BTreeMap<String, String>, texts: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for name in stored.keys().filter(|name| !texts.contains_key(*name)) {
        found.push(format!("help/{name}.txt is the text of no command"));
    }
    for (name, text) in texts {
        let Some(before) = stored.get(name) else {
            found.push(format!("`{name}` has no help/{name}.txt"));
            continue;
        };
        if before != text {
            let (old, new): (Vec<&str>, Vec<&str>) =
                (before.lines().collect(), text.lines().collect());
            let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
            let line = |lines: &[&str]| lines.get(same).map_or("(its end)", |l| *l).to_string();
            found.push(format!(
                "help/{name}.txt:{}\n  stored:  {}\n  printed: {}",
                same + 1,
                line(&old),
                line(&new)
            ));
        }
    }
    found
}

#[test]
fn every_command_has_the_help_that_is_stored() {
    let texts = texts();
    assert!(texts.len() > 10, "{:?}", texts.keys());
    if std::env::var_os("RTP_BLESS").is_some() {
        std::fs::remove_dir_all(folder()).unwrap();
        std::fs::create_dir(folder()).unwrap();
        for (name, text) in &texts {
            std::fs::write(folder().join(name).with_extension("txt"), text).unwrap();
        }
    }
    let found = differences(&stored(), &texts);
    assert!(
        found.is_empty(),
        "the help texts are not those of tests/it/help:\n\n{}\n\nIf the change is meant, run \
         `RTP_BLESS=1 cargo test --test it help` and commit the files.\n",
        found.join("\n")
    );
}

#[test]
fn a_text_too_many_one_missing_and_one_that_differs_are_told() {
    let of = |texts: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = texts.iter().map(|(a, b)| (a.to_string(), b.to_string()));
        owned.collect()
    };
    let stored = of(&[("gone", "a\n"), ("fetch", "a\nb\n"), ("init", "a\n")]);
    let texts = of(&[("new", "a\n"), ("fetch", "a\nc\n"), ("init", "a\n")]);
    let expected = [
        "help/gone.txt is the text of no command",
        "help/fetch.txt:2\n  stored:  b\n  printed: c",
        "`new` has no help/new.txt",
    ];
    assert_eq!(differences(&stored, &texts), expected);
    let longer = of(&[("init", "a\nb\n")]);
    let [found] = &differences(&of(&[("init", "a\n")]), &longer)[..] else {
        panic!()
    };
    assert!(
        found.ends_with("stored:  (its end)\n  printed: b"),
        "{found}"
    );
}

#[test]
fn commands_are_read_off_the_help() {
    let text =
        "Do\n\nCommands:\n  fetch    Get\n           more\n  init     Make\n\nOptions:\n  -h  x\n";
    assert_eq!(commands(text), ["fetch", "init"]);
    assert!(commands("Do\n\nOptions:\n  -h  x\n").is_empty());
}
