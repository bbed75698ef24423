//! The fields of a multipart form, read while it passes: what they point with leads its way. The
//! content of files is not looked at, and nothing of it is kept.

use bytes::{Buf as _, BytesMut};
use memchr::memmem;

use super::{Named, Unreadable, ids};
use crate::limits;

/// Reads a form piece by piece.
#[derive(Debug)]
pub struct FormReader {
    /// What stands between two parts.
    delimiter: Vec<u8>,
    /// What has come and is not understood yet.
    pending: BytesMut,
    place: Place,
    ids: Vec<Named>,
}

#[derive(Debug)]
enum Place {
    /// Before the first part.
    Preamble,
    /// Behind a delimiter: the head of a part, or the end.
    Head,
    /// In a field, of which so much has come.
    Field { name: String, value: Vec<u8> },
    /// In the content of a file.
    File,
    /// Behind the last part.
    End,
}

impl FormReader {
    /// A reader for a body of this `Content-Type`; `None` if it names no boundary.
    pub fn of(content_type: &str) -> Option<FormReader> {
        const BOUNDARY_MAX: usize = 70;
        let parameters = content_type.split(';').skip(1);
        let boundary = parameters.filter_map(|parameter| parameter.split_once('='));
        let boundary = boundary
            .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
            .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))
            .map(|(_, boundary)| boundary)?;
        (1..=BOUNDARY_MAX).contains(&boundary.len()).then(|| FormReader {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may stand at the very beginning.
            pending: BytesMut::from(&b"\r\n"[..]),
            place: Place::Preamble,
            ids: Vec::new(),
        })
    }

    /// Reads on.
    ///
    /// # Errors
    /// If a field or the head of a part is larger than any real one.
    pub fn read(&mut self, piece: &[u8]) -> Result<(), Unreadable> {
        if matches!(self.place, Place::End) {
            return Ok(());
        }
        self.pending.extend_from_slice(piece);
        while self.step()? {}
        Ok(())
    }

    /// Whether the fields in front of the first file have been read.
    pub fn has_reached_file(&self) -> bool {
        matches!(self.place, Place::File | Place::End)
    }

    /// The ids that the fields have named since the last call.
    pub fn take_ids(&mut self) -> Vec<Named> {
        std::mem::take(&mut self.ids)
    }

    /// Takes what is there of the part; tells whether there may be more to take.
    fn step(&mut self) -> Result<bool, Unreadable> {
        if matches!(self.place, Place::Head) {
            return self.head();
        }
        let end = memmem::find(&self.pending, &self.delimiter);
        let known = end.unwrap_or((self.pending.len() + 1).saturating_sub(self.delimiter.len()));
        if let Place::Field { value, .. } = &mut self.place {
            if value.len() + known > limits::FORM_FIELD_BYTES_MAX {
                return Err(Unreadable::Extravagant("has a larger field"));
            }
            value.extend_from_slice(&self.pending[..known]);
        }
        self.pending.advance(known);
        if end.is_none() {
            return Ok(false);
        }
        self.pending.advance(self.delimiter.len());
        if let Place::Field { name, value } = std::mem::replace(&mut self.place, Place::Head) {
            // The line break that ends its head.
            ids::of_field(&name, value.get(2..).unwrap_or_default(), &mut self.ids)?;
        }
        Ok(true)
    }

    fn head(&mut self) -> Result<bool, Unreadable> {
        if self.pending.starts_with(b"--") {
            self.place = Place::End;
            self.pending.clear();
            return Ok(false);
        }
        let Some(end) = memmem::find(&self.pending, b"\r\n\r\n") else {
            return match self.pending.len() > limits::FORM_FIELD_BYTES_MAX {
                true => Err(Unreadable::Extravagant("has a part with a larger head")),
                false => Ok(false),
            };
        };
        let head = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        self.place = part(&head);
        // Its last line break stays: the delimiter of a part without content begins with it.
        self.pending.advance(end + 2);
        Ok(true)
    }
}

/// What a part with this head is.
fn part(head: &str) -> Place {
    const NAME: &str = "content-disposition:";
    let lines = || head.split("\r\n");
    let disposition = lines().find(|line| {
        line.get(..NAME.len())
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    });
    let parameters = || {
        disposition
            .unwrap_or_default()
            .split(';')
            .filter_map(|parameter| parameter.split_once('='))
    };
    let named = |wanted: &str| {
        parameters()
            .find(|(name, _)| name.trim().trim_end_matches('*').eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    match named("filename") {
        Some(_) => Place::File,
        None => Place::Field {
            name: named("name").unwrap_or_default(),
            value: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::ReferenceKind;

    const KIND: &str = "multipart/form-data; boundary=----the-boundary";

    fn form(parts: &[(&str, &str)]) -> String {
        let parts = parts.iter().map(|(head, content)| {
            format!("------the-boundary\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
        });
        parts.collect::<String>() + "------the-boundary--\r\n"
    }

    fn read(form: &str, piece: usize) -> Vec<(ReferenceKind, String)> {
        let mut reader = FormReader::of(KIND).unwrap();
        for piece in form.as_bytes().chunks(piece) {
            reader.read(piece).unwrap();
        }
        assert!(reader.has_reached_file());
        let ids = reader.take_ids().into_iter();
        ids.map(|id| (id.kind, id.id)).collect()
    }

    #[test]
    fn the_fields_of_a_form_tell_their_ids_however_it_is_cut_and_its_files_nothing() {
        let form = form(&[
            ("name=\"purpose\"", "user_data"),
            ("name=\"file_id\"", "file-abc123def456"),
            ("name=\"vector_store_ids[]\"", "vs_67ccd2bed1ec"),
            ("name=\"empty\"", ""),
            ("name=\"reference\"", "{\"file_id\":\"file-in123json456\"}"),
            (
                "name=\"file\"; filename=\"a; b.txt\"",
                "file-hidden123456\r\n--not-the-end",
            ),
            ("name=\"image\"", "file-late12345678"),
        ]);
        let expected = [
            (ReferenceKind::File, "file-abc123def456"),
            (ReferenceKind::VectorStore, "vs_67ccd2bed1ec"),
            (ReferenceKind::File, "file-in123json456"),
            (ReferenceKind::Mentioned, "file-late12345678"),
        ]
        .map(|(kind, id)| (kind, id.to_owned()));
        for piece in [1, 2, 7, 64, form.len()] {
            assert_eq!(read(&form, piece), expected, "{piece}");
        }
    }

    #[test]
    fn nothing_of_a_file_is_kept_and_what_is_beyond_all_measure_is_refused() {
        let mut reader = FormReader::of(KIND).unwrap();
        let head = form(&[("name=\"file\"; filename=\"a\"", "")]);
        reader.read(&head.as_bytes()[..head.len() - 24]).unwrap();
        for _ in 0..100 {
            reader.read(&[b'x'; 64 * 1024]).unwrap();
            assert!(reader.pending.len() < 100);
        }
        let long = form(&[("name=\"a\"", &"x".repeat(limits::FORM_FIELD_BYTES_MAX))]);
        assert!(FormReader::of(KIND).unwrap().read(long.as_bytes()).is_err());
        for kind in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "text/plain",
        ] {
            assert!(FormReader::of(kind).is_none());
        }
    }
}
