//! `summary`: every object in one table.

use serde_json::{Map, Value};

use super::Kinds;
use super::listing::{Facts, Found, Reader, facts, objects};
use crate::caller::Caller;
use crate::escape;
use crate::kind::control::json_list;

const HEADER: [&str; 7] = ["KIND", "NAME", "MODE", "OWNER", "SIZE", "CONTENT", "LAST"];

/// The table for people, its columns aligned. A name that is no plain word is written as a shell
/// takes it.
pub(super) fn text(kinds: &Kinds, caller: Caller) -> Vec<u8> {
    let users = Users::read();
    let mut rows = vec![HEADER.map(str::to_owned)];
    for (found, facts) in all(kinds, caller) {
        rows.push([
            found.kind.to_owned(),
            escape::word(&found.name),
            format!("{:04o}", found.attr.mode),
            users.name(found.attr.uid),
            found.size.to_string(),
            content(&facts),
            joined(&facts.last),
        ]);
    }
    table(rows).into_bytes()
}

/// Messages or values; of a large set the first ones.
fn content(facts: &Facts) -> String {
    const MOST: usize = 16;
    match (facts.messages, facts.values.get(..MOST)) {
        (Some(messages), _) => messages.to_string(),
        (None, Some(first)) if facts.values.len() > MOST => joined(first) + ",...",
        (None, _) => joined(&facts.values),
    }
}

fn joined(numbers: &[i128]) -> String {
    if numbers.is_empty() {
        return "-".into();
    }
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Aligns: the numbers of the fifth column to the right, everything else to the left.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        crate::memory::freed(row.iter().map(|cell| size_of_val(cell) + cell.capacity()).sum());
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let blanks = " ".repeat(width - cell.chars().count());
            let (before, after) =
                if column == 4 { (blanks, String::new()) } else { (String::new(), blanks) };
            line.extend([before.as_str(), cell, &after, "  "]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The same for `jq`.
pub(super) fn json(kinds: &Kinds, caller: Caller) -> Vec<u8> {
    let object = |(found, facts): (Found, Facts)| {
        let number = |number: i128| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
        let mut map = Map::new();
        map.insert("kind".into(), found.kind.into());
        map.insert("name".into(), String::from_utf8_lossy(&found.name).into());
        map.insert("mode".into(), format!("{:04o}", found.attr.mode).into());
        map.insert("uid".into(), found.attr.uid.into());
        map.insert("gid".into(), found.attr.gid.into());
        map.insert("size".into(), found.size.into());
        if let Some(messages) = facts.messages {
            map.insert("messages".into(), number(messages));
        }
        if !facts.values.is_empty() {
            map.insert("values".into(), facts.values.into_iter().map(number).collect());
        }
        if !facts.last.is_empty() {
            map.insert("last_pids".into(), facts.last.into_iter().map(number).collect());
        }
        Value::Object(map)
    };
    json_list(all(kinds, caller).into_iter().map(object))
}

fn all(kinds: &Kinds, caller: Caller) -> Vec<(Found, Facts)> {
    let reader = Reader::new(caller);
    let with_facts = |found| facts(&found, &reader).map(|facts| (found, facts));
    objects(kinds).into_iter().filter_map(with_facts).collect()
}

/// The names of users in /etc/passwd. Other sources may take for ever to answer.
struct Users(String);

impl Users {
    fn read() -> Self {
        Self(std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn name(&self, uid: u32) -> String {
        let uid = uid.to_string();
        let is_theirs = |line: &&str| line.split(':').nth(2) == Some(&uid);
        let line = self.0.lines().find(is_theirs).and_then(|line| line.split(':').next());
        line.map_or_else(|| uid.clone(), |name| escape::word(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 5]| cells.map(str::to_owned);
        let rows = [row(["A", "B", "C", "D", "SIZE"]), row(["long", "x", "", "y", "7"])];
        assert_eq!(table(rows.into()), "A     B  C  D  SIZE\nlong  x     y     7\n");
    }

    #[test]
    fn owners_have_names_where_there_are_some() {
        let users = Users("root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/:/bin/sh\n".into());
        assert_eq!((users.name(1000).as_str(), users.name(7).as_str()), ("ada", "7"));
    }
}
