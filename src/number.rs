//! Numbers as people write them: mount options, attributes of `ctl/create`, tags.

/// A decimal number: digits and nothing else, no sign and no blank; `None` for one that 64 bits do
/// not hold, too.
pub fn decimal(text: &str) -> Option<u64> {
    // What `parse` alone takes may begin with a plus.
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// A decimal number that may end in `K`, `M`, `G` or `T`, large or small, for powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        b'T' | b't' => 40,
        _ => return decimal(text),
    };
    decimal(&text[..text.len() - 1])?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_alone_are_a_number() {
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for wrong in ["", "+1", "-1", " 1", "1 ", "0x1", "1e3", "18446744073709551616", "١"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
        for wrong in ["", "K", "+1K", "1KK", "1 K", "1Kb", "16777216T", "ä"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(number: u64, zeros in 0..4_usize) {
            prop_assert_eq!(decimal(&format!("{}{number}", "0".repeat(zeros))), Some(number));
            prop_assert_eq!(size(&number.to_string()), Some(number));
        }

        #[test]
        fn a_letter_multiplies(number: u64, bits in 0..64_u32, letter in 0..4_usize, small: bool) {
            let number = number >> bits;
            let unit = ["K", "M", "G", "T"][letter];
            let unit = if small { unit.to_lowercase() } else { unit.to_owned() };
            let expected = number.checked_mul(1024_u64.pow(letter as u32 + 1));
            prop_assert_eq!(size(&format!("{number}{unit}")), expected);
        }

        #[test]
        fn nothing_else_is_taken(text in "[0-9KkMmGgTt+ .-]{0,8}|\\PC{0,8}") {
            let plain = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
            if let Some(number) = decimal(&text) {
                prop_assert!(plain(&text));
                prop_assert_eq!(text.parse(), Ok(number));
            }
            let digits = text.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g', 'T', 't']);
            prop_assert_eq!(size(&text).is_some(), {
                let digits = digits.unwrap_or(&text);
                !digits.is_empty() && plain(digits) // None is longer than 8 digits, with a T.
            });
        }
    }
}
