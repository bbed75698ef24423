//! `moorage backup`: an online copy of the database.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, absolute};
use crate::store::backup::{self, BackupError, LastBackup, Progress};
use crate::store::seal::KeySource;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to make; one that is there is not overwritten
    file: PathBuf,
}

pub(super) fn run(args: &BackupArgs, config: &Config) -> anyhow::Result<()> {
    let database = &config.database;
    anyhow::ensure!(
        database.exists(),
        "there is no database at {}; 'moorage serve' makes one",
        database.display()
    );
    let file = absolute(&args.file).map_err(anyhow::Error::msg)?;
    let made = super::block_on(copy(database.clone(), file))?;
    println!(
        "{} is a copy of {}, looked through and whole ({}).",
        made.file.display(),
        database.display(),
        HumanBytes(made.bytes)
    );
    match config.seal_key() {
        KeySource::File(path) => println!(
            "The keys of the accounts in it are sealed with {}: keep that safe, too, in another place.",
            path.display()
        ),
        KeySource::Environment(variable) => {
            println!("The keys of the accounts in it are sealed with the key in {variable}: keep that, too.");
        }
    }
    // For the doctor. The copy is there, whether this can be written or not.
    if let Err(error) = backup::made(database, &made) {
        eprintln!("That it was made could not be written down for 'moorage doctor': {error}");
    }
    Ok(())
}

/// Copies, with a bar where somebody looks on, until it is done or stopped by a signal.
async fn copy(database: PathBuf, file: PathBuf) -> anyhow::Result<LastBackup> {
    // On standard error, and only where that is a terminal.
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}, {eta} left {msg}",
    )?);
    // Listened to before anything is made that would be left behind.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = Arc::new(AtomicBool::new(false));
    let (shown, stopped) = (bar.clone(), stop.clone());
    let mut copying = tokio::task::spawn_blocking(move || {
        backup::copy(&database, &file, &stopped, |progress| show(&shown, progress))
    });
    let copied = tokio::select! {
        copied = &mut copying => Some(copied),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let copied = match copied {
        Some(copied) => copied,
        None => {
            stop.store(true, Ordering::Relaxed);
            copying.await
        }
    };
    bar.finish_and_clear();
    let copied: Result<LastBackup, BackupError> = copied?;
    Ok(copied?)
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Copied(done, of) => {
            bar.set_length(of);
            bar.set_position(done);
        }
        Progress::Checking => {
            bar.set_message("(looking it through)");
            bar.enable_steady_tick(Duration::from_millis(100));
        }
    }
}
