//! Reading a request body whole, within its limit and its time.

use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONTENT_ENCODING, HeaderMap};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use crate::error::Error;
use crate::limits;

/// What is reserved at once on a client's word about its body's size.
const RESERVE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The layer in front has removed the encodings that it undid.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if *encoding != "identity" => {
            let encoding = encoding.to_str().unwrap_or("unreadable");
            Err(Error::UnknownEncoding(encoding.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Reads a body to its end.
pub(super) async fn read(headers: &HeaderMap, mut body: Body, most: usize) -> Result<Bytes, Error> {
    check_encoding(headers)?;
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(Error::BodyTooLarge(most));
    }
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() as u64 == announced && first.len() <= most {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(announced.min(RESERVE_BYTES_MAX) as usize);
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > most {
            return Err(Error::BodyTooLarge(most));
        }
        whole.extend_from_slice(&bytes);
        piece = next(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next piece, within its time.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = tokio::time::timeout(limits::REQUEST_BODY_IDLE, body.frame()).await;
        match frame.map_err(|_| Error::BodyTimeout)? {
            None => return Ok(None),
            Some(Err(error)) => return Err(Error::BodyUnreadable(root_cause(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn root_cause(error: &axum::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
