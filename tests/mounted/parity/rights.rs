//! Who may open what: every mode, by everybody, for each kind of access.

use super::{A, Access, B, Field, Kind, P, ROOT, S, Side, Step, User, by, text};

const MODES: [u32; 18] = [
    0o000, 0o400, 0o200, 0o600, 0o040, 0o020, 0o060, 0o004, 0o002, 0o006, 0o066, 0o606, 0o660,
    0o666, 0o644, 0o622, 0o604, 0o046,
];

/// Whom C lets in and the mount does not: a file has no creator beside its owner.
fn is_a_creators_right(kind: Kind, given_away: bool, user: &User) -> bool {
    kind.is_system_v() && given_away && [A, P, S].contains(&user)
}

#[test]
fn who_may_open_what_in_c_may_open_it_through_the_mount_and_nobody_else() {
    let field = Field::new("");
    let (mut let_in, mut refused, mut kept_out) = (0, 0, 0);
    for kind in Kind::ALL {
        for (mode, given_away) in MODES.iter().flat_map(|mode| [(*mode, false), (*mode, true)]) {
            let make = |side: &mut dyn Side| {
                by(A, || side.step(&Step::Make(0o600))).unwrap();
                side.step(&Step::Chmod(mode)).unwrap();
                if given_away {
                    side.step(&Step::Chown(B.uid, B.gid)).unwrap();
                }
            };
            make(&mut field.native(kind));
            if kind == Kind::Fifo {
                // The only ones that C does not reach.
                make(&mut field.mounted(kind));
            }
            for (user, access) in
                [ROOT, A, B, P, S].iter().flat_map(|user| Access::ALL.map(|access| (*user, access)))
            {
                let attempt = Step::Try(access);
                let native = text(by(user, || field.native(kind).step(&attempt)));
                let mounted = text(by(user, || field.mounted(kind).step(&attempt)));
                match (&*native, &*mounted) {
                    ("ok", "EACCES") if is_a_creators_right(kind, given_away, user) => {
                        kept_out += 1;
                    }
                    ("EACCES", "EACCES") => refused += 1,
                    (native, mounted) => {
                        assert_eq!(
                            native, mounted,
                            "{kind:?}, {mode:04o}, given away: {given_away}, {access:?} by {user:?}"
                        );
                        let_in += 1;
                    }
                }
            }
            field.clear();
        }
    }
    println!("let in: {let_in}; refused: {refused}; kept out by the mount alone: {kept_out}");
    assert!(let_in > 1000 && refused > 1000 && kept_out > 0);
}
