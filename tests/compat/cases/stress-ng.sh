# its stressors of file systems, each with its own checks
# keep: ./none
# seconds: 500
for stressor in access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap \
    file-ioctl filename flock fpunch fstat full getdent hdd handle io iomix link locka lockf lockofd mmapfork msync \
    open readahead rename seek sendfile splice symlink sync-file tee touch utime vm-splice xattr; do
  stress-ng --$stressor 2 --timeout 1 --verify --temp-path . --no-rand-seed >"$scratch/log" 2>&1
  echo "$stressor $?"
done
