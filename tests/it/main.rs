//! smoke
mod replay;
use larder::*;
#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    for policy in [WritePolicy::behind(), WritePolicy::Through] {
        let c: Cache<str, String> = Cache::builder()
            .path(dir.path().join(format!("{}.larder", policy == WritePolicy::Through)))
            .memory_max_entries(3)
            .disk_max_entries(6)
            .write_policy(policy)
            .open()
            .unwrap();
        for i in 0..10 {
            c.insert(&format!("k{i}"), &format!("v{i}")).unwrap();
        }
        c.flush().unwrap();
        assert_eq!(c.len(), 6);
        assert_eq!(c.memory_len(), 3);
        assert_eq!(
            c.keys().map(|k| k.unwrap()).collect::<Vec<_>>(),
            ["k4", "k5", "k6", "k7", "k8", "k9"]
        );
        assert_eq!(c.get("k4").unwrap().unwrap().as_str(), "v4");
        c.insert("x", &"y".into()).unwrap();
        c.flush().unwrap();
        assert!(c.get("k5").unwrap().is_none());
        println!("{:?}", c.stats());
        c.clone().close().unwrap();
        let c: Cache<str, String> = Cache::builder()
            .path(dir.path().join(format!("{}.larder", policy == WritePolicy::Through)))
            .memory_max_entries(3)
            .disk_max_entries(6)
            .write_policy(policy)
            .open()
            .unwrap();
        assert_eq!(c.len(), 6);
        assert_eq!(c.get("k4").unwrap().unwrap().as_str(), "v4");
        assert_eq!(c.remove("k4").unwrap().unwrap().as_str(), "v4");
        assert!(c.get("k4").unwrap().is_none());
        assert_eq!(c.len(), 5);
        assert_eq!(c.clear().unwrap(), 5);
        assert_eq!(c.len(), 0);
    }
}
