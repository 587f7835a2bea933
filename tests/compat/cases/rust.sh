# keep: ./d/*
# served: a
cat >a.rs <<'RS'
use std::{env, fs, io, path::Path};
fn walk(p: &Path) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for e in fs::read_dir(p)? {
        let e = e?;
        let t = e.file_type()?;
        if t.is_dir() {
            let (f, b) = walk(&e.path())?;
            files += f;
            bytes += b;
        } else if t.is_file() {
            files += 1;
            bytes += e.metadata()?.len() + fs::read(e.path())?.len() as u64;
        }
    }
    Ok((files, bytes))
}
fn main() -> io::Result<()> {
    fs::create_dir("d")?;
    for i in 0..50 {
        fs::write(format!("d/f{}", i), vec![1u8; i])?;
    }
    println!("{:?} {:?}", walk(Path::new("d"))?, walk(Path::new(&env::var("project").unwrap()))?);
    Ok(())
}
RS
rustc a.rs && ./a
