//! The ghost beside a list that is searched from end to end.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn remembers_what_a_list_remembers(
        steps in proptest::collection::vec((0_u64..40, 0_u64..6, 0_u8..3), 1..400),
        entries in 0_usize..20,
        bytes in proptest::option::of(0_u64..50),
    ) {
        let bounds = Bounds { entries, bytes };
        let mut ghost = Ghost { first: u32::MAX - 50, ..Ghost::default() };
        let mut list: Vec<(u64, u64)> = Vec::new();
        for (hash, charge, verb) in steps {
            if verb == 0 {
                let at = list.iter().position(|(held, _)| *held == hash);
                prop_assert_eq!(ghost.take(hash), at.is_some());
                at.map(|at| list.remove(at));
                continue;
            }
            if list.iter().any(|(held, _)| *held == hash) {
                continue;
            }
            ghost.remember(hash, charge, bounds);
            let fits = |list: &[(u64, u64)]| {
                let sum: u64 = list.iter().map(|(_, charge)| charge).sum();
                list.len() <= entries && bytes.is_none_or(|max| sum <= max)
            };
            if fits(&[(hash, charge)]) {
                list.push((hash, charge));
                while !fits(&list) {
                    list.remove(0);
                }
            }
            prop_assert_eq!(ghost.validate(Some(bounds)), Ok(()));
            prop_assert_eq!(ghost.alive.len(), list.len());
        }
    }
}
