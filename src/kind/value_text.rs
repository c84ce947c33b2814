//! A value that is read as a text: what `cat` of a semaphore prints.

use crate::error::Result;

/// Where the reader of an open file is.
#[derive(Default)]
pub struct ValueText {
    text: Vec<u8>,
    /// Where a reader without a position is.
    position: usize,
}

impl ValueText {
    /// Serves a read at `at`, or where the last one ended. A read from the beginning shows the
    /// value as `text` has it then; who has no position gets it, end of file once, then anew.
    pub fn read(
        &mut self,
        at: Option<u64>,
        size: usize,
        out: &mut Vec<u8>,
        text: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let at = at.map_or(self.position, |at| usize::try_from(at).unwrap_or(usize::MAX));
        if at == 0 {
            self.text = text()?;
        }
        let from = at.min(self.text.len());
        let part = &self.text[from..self.text.len().min(from.saturating_add(size))];
        out.extend_from_slice(part);
        self.position = if part.is_empty() { 0 } else { from + part.len() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &mut ValueText, at: Option<u64>, size: usize, value: &str) -> String {
        let mut out = Vec::new();
        text.read(at, size, &mut out, || Ok(value.into())).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reader_with_a_position_sees_one_value_until_it_goes_back() {
        let text = &mut ValueText::default();
        assert_eq!(read(text, Some(0), 2, "12\n"), "12");
        assert_eq!(read(text, Some(2), 9, "7\n"), "\n");
        assert_eq!(read(text, Some(3), 9, "7\n"), "");
        assert_eq!(read(text, Some(0), 9, "7\n"), "7\n");
        assert_eq!(read(text, Some(u64::MAX), 9, "7\n"), "");
    }

    #[test]
    fn a_reader_without_one_gets_the_end_of_file_once() {
        let text = &mut ValueText::default();
        assert_eq!(read(text, None, 1, "1\n"), "1");
        assert_eq!(read(text, None, 9, "2\n"), "\n");
        assert_eq!(read(text, None, 9, "3\n"), "");
        assert_eq!(read(text, None, 9, "4\n"), "4\n");
    }

    proptest! {
        #[test]
        fn a_value_is_read_whole_however_it_changes_meanwhile(
            reads in vec((1..5_usize, "[0-9]{0,6}\\n"), 1..40), positions: bool,
        ) {
            let mut text = ValueText::default();
            let (mut rest, mut at) = (None::<String>, 0);
            for (size, value) in reads {
                // What is shown is the value at the read that begins it.
                let left = rest.take().unwrap_or_else(|| value.clone());
                let (now, later) = left.split_at(left.len().min(size));
                let got = read(&mut text, positions.then_some(at), size, &value);
                prop_assert_eq!(&got, now);
                at = if now.is_empty() { 0 } else { at + now.len() as u64 };
                rest = (!now.is_empty()).then(|| later.to_owned());
            }
        }

        #[test]
        fn any_position_is_served(
            reads in vec((prop::option::of(any::<u64>()), any::<usize>(), "[0-9 ]{0,5}\n"), 0..20),
        ) {
            let mut text = ValueText::default();
            for (at, size, value) in reads {
                prop_assert!(read(&mut text, at, size, &value).len() <= size);
            }
        }
    }
}
