//! Who may import whom: the edges of the design, read from the sources.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source with its room (the first module of its path) and its text without comments.
fn rooms() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let room = |path: &Path| {
        let first = path
            .strip_prefix(&root)
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap();
        first.trim_end_matches(".rs").to_owned()
    };
    let code = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    files.iter().map(|path| (room(path), code(path))).collect()
}

/// Whether code names a path that begins with this word, as `word::` or `use word`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            && after.is_none_or(|c| !(c.is_alphanumeric() || c == '_'))
    })
}

#[test]
fn each_dependency_on_the_world_has_one_room() {
    let allowed = [
        ("axum", vec!["server", "simulator"]),
        ("reqwest", vec!["upstream", "simulator"]),
        ("tokio_tungstenite", vec!["upstream", "server"]),
        ("rusqlite", vec!["store"]),
        ("r2d2", vec!["store"]),
        ("clap", vec!["cli", "main", "simulator", "store"]),
    ];
    for (room, code) in rooms() {
        for (dependency, rooms) in &allowed {
            let path = format!("{dependency}::");
            assert!(
                rooms.contains(&room.as_str()) || !names(&code, path.trim_end_matches(':')),
                "{room} uses {dependency}"
            );
        }
    }
}

#[test]
fn nothing_imports_upwards() {
    let story = ["exchange", "server", "app", "cli"];
    let world = ["store", "upstream", "pool"];
    let forbidden: Vec<(&str, Vec<&str>)> = vec![
        ("exchange", vec!["server", "app", "cli", "config"]),
        ("server", vec!["app", "cli", "config"]),
        ("app", vec!["cli"]),
        ("store", [&story[..], &["upstream", "pool"]].concat()),
        ("upstream", [&story[..], &["store", "pool"]].concat()),
        ("pool", [&story[..], &["store", "upstream"]].concat()),
        ("affinity", [&story[..], &world[..]].concat()),
        ("retry", [&story[..], &world[..]].concat()),
        ("request", [&story[..], &world[..]].concat()),
        ("response", [&story[..], &world[..]].concat()),
        ("account", [&story[..], &world[..]].concat()),
        ("price", [&story[..], &world[..]].concat()),
        ("error", [&story[..], &world[..]].concat()),
        ("limits", [&story[..], &world[..]].concat()),
    ];
    for (room, code) in rooms() {
        for (_, targets) in forbidden.iter().filter(|(from, _)| *from == room) {
            for target in targets {
                assert!(
                    !names(&code, &format!("crate::{target}")),
                    "{room} imports {target}"
                );
            }
        }
    }
}

#[test]
fn the_domain_has_no_clock_and_no_runtime() {
    for (room, code) in rooms() {
        if [
            "affinity", "retry", "request", "response", "account", "price", "error", "limits",
        ]
        .contains(&room.as_str())
        {
            for word in [
                "tokio",
                "std::fs",
                "std::net",
                "Instant::now",
                "SystemTime::now",
                "now_ms()",
            ] {
                assert!(!code.contains(word), "{room} has {word}");
            }
        }
    }
}
