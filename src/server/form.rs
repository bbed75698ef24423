//! A multipart form on its way through: the fields in front of its first file are read before it is
//! sent anywhere, because what they point with leads its way. What comes later is looked at while
//! it passes.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::error::Error;
use crate::exchange::{Content, Gateway, is_anyones, unreadable};
use crate::limits;
use crate::request::form::FormReader;
use crate::upstream::passing::{BoxError, Passing, Stopped};

use super::body::{check_encoding, next};

/// Reads the fields in front of the first file, and lets everything pass.
pub(super) async fn read(
    gateway: &Arc<Gateway>,
    headers: &HeaderMap,
    mut body: Body,
    most: u64,
) -> Result<Content, Error> {
    check_encoding(headers)?;
    let size = body.size_hint();
    if size.lower() > most {
        return Err(Error::UploadTooLarge(most));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let mut reader = kind
        .and_then(FormReader::of)
        .ok_or_else(|| Error::BodyUnreadable("the form names no boundary".to_owned()))?;
    let mut head = Vec::new();
    let mut left = most;
    while !reader.has_reached_file() {
        let Some(piece) = next(&mut body).await? else {
            break;
        };
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or(Error::UploadTooLarge(most))?;
        reader.read(&piece).map_err(unreadable)?;
        head.push(piece);
        if most - left > limits::FORM_HEAD_BYTES_MAX {
            return Err(Error::Extravagant("has more fields"));
        }
    }
    let ids = reader.take_ids();
    let stopped = Stopped::default();
    let rest = Rest {
        gateway: gateway.clone(),
        body,
        left,
        most,
        reader,
    };
    let pieces = futures_util::stream::iter(head.into_iter().map(Ok)).chain(rest.pieces(stopped.clone()));
    Ok(Content::Passing {
        body: Passing::new(pieces, size.exact(), stopped),
        ids,
    })
}

/// What follows the fields.
struct Rest {
    gateway: Arc<Gateway>,
    body: Body,
    left: u64,
    most: u64,
    reader: FormReader,
}

impl Rest {
    fn pieces(self, stopped: Stopped) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
        futures_util::stream::try_unfold((self, stopped), async |(mut rest, stopped)| {
            match rest.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, (rest, stopped)))),
                Err(error) => {
                    let told = BoxError::from(error.to_string());
                    stopped.set(error);
                    Err(told)
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(piece) = next(&mut self.body).await? else {
            return Ok(None);
        };
        self.left = self
            .left
            .checked_sub(piece.len() as u64)
            .ok_or(Error::UploadTooLarge(self.most))?;
        self.reader.read(&piece).map_err(unreadable)?;
        let ids = self.reader.take_ids();
        // It is on its way to an account already, and may be somebody else's.
        if !ids.is_empty() && is_anyones(&self.gateway, &ids).await? {
            return Err(Error::LateReference);
        }
        Ok(Some(piece))
    }
}
