//! What people write into target texts for other programs and is not understood here; knows no model.
#![forbid(unsafe_code)]

/// Parts of `text` that other programs take for weights, adapters or breaks and here are read letter by letter.
pub fn not_understood(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['<', '(', '[']) {
        let open = &rest[start..];
        let close = match open.as_bytes()[0] {
            b'<' => '>',
            b'(' => ')',
            _ => ']',
        };
        let doubled = if open[1..].starts_with(&open[..1]) { 2 } else { 1 };
        let end = open
            .find(close)
            .map(|end| end + open[end..].chars().take(doubled).take_while(|&next| next == close).count());
        let Some(end) = end else { break };
        let part = &open[..end];
        // <lora:name:0.8>, (word:1.4), [from:to:0.5]; ((more)), [[less]].
        let is_number = |text: &str| text.trim_matches([')', ']']).trim().parse::<f64>().is_ok();
        let is_meant = match close {
            '>' => part.contains(':'),
            _ => doubled == 2 || part.rsplit_once(':').is_some_and(|(_, number)| is_number(number)),
        };
        if is_meant {
            found.push(part);
            rest = &open[end..];
        } else {
            rest = &open[1..];
        }
    }
    found.extend(text.split([' ', ',', '\n']).find(|word| *word == "BREAK"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_adapters_and_breaks_are_found_and_plain_brackets_are_not() {
        for (text, expected) in [
            (
                "a (blue:1.4) car, BREAK [[red]] <lora:foo:0.8>",
                &["(blue:1.4)", "[[red]]", "<lora:foo:0.8>", "BREAK"][..],
            ),
            ("a ((very)) blue car", &["((very))"]),
            ("a [dog:cat:0.5]", &["[dog:cat:0.5]"]),
            ("a car (blue) at 10:30, 3 < 4 > 2, [sic], unBREAKable", &[]),
            ("a (smile", &[]),
            ("(é:1.2) 파란 (자동차)", &["(é:1.2)"]),
        ] {
            assert_eq!(not_understood(text), expected, "{text}");
        }
    }
}
