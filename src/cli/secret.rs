//! `moorage secret …`: the key that upstream credentials are sealed with.

use clap::Subcommand;

use crate::config::Config;
use crate::store::seal::{self, KeySource};
use crate::store::{self};

#[derive(Debug, Subcommand)]
pub(super) enum SecretCommand {
    /// Seal all secrets with a new key
    Rotate {
        /// With the key in this environment variable (32 bytes in base64), to be used from then on
        #[arg(long, value_name = "VARIABLE")]
        new_key_env: Option<String>,
    },
}

pub(super) fn run(command: &SecretCommand, config: &Config) -> anyhow::Result<()> {
    let SecretCommand::Rotate { new_key_env } = command;
    let connection = store::open_writable(&config.database, config.file.durability)?;
    match (config.seal_key(), new_key_env) {
        (KeySource::File(path), None) => {
            let count = seal::rotate(&connection, &path)?;
            println!(
                "{count} secrets are sealed anew; the new key is in {}.",
                path.display()
            );
        }
        (before, Some(variable)) => {
            let count = seal::rotate_to_environment(&connection, &before, variable)?;
            println!(
                "{count} secrets are sealed anew. From now on the key is the one in {variable}: set \
                 secret_key_env = \"{variable}\" in moorage.toml before the next start or change."
            );
        }
        (KeySource::Environment(variable), None) => anyhow::bail!(
            "the key is in the environment variable {variable}, which cannot be changed from here; give the \
             new one with --new-key-env"
        ),
    }
    Ok(())
}
