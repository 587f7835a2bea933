# Perl: positions in files and directories, locks, children that share descriptors, temporary files, -i
# served: perl
cat >"$scratch/a.pl" <<'PERL'
use strict;
use warnings;
use Fcntl qw(:flock :seek :mode SEEK_SET);
use File::Copy;
use File::Find;
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempfile tempdir);
use IO::File;

my ($files, $bytes) = (0, 0);
find({ no_chdir => 1, wanted => sub {
  return unless -f $_;
  open(my $f, '<:raw', $_) or die "$_: $!";
  local $/;
  $files++;
  $bytes += length(<$f>) + -s $f;
} }, $ENV{project});
print "$files $bytes\n";

make_path(map { "d/$_/e" } 1 .. 20);
for my $n (1 .. 100) {
  my $f = IO::File->new("d/f$n", 'w') or die;
  print $f "line $_ of $n\n" for 1 .. $n;
}
opendir(my $d, 'd') or die;
my @names = map { scalar readdir $d } 1 .. 10;
my $place = telldir $d;
my @rest = readdir $d;
seekdir($d, $place);
my @again = readdir $d;
print "@rest" eq "@again" ? 'same' : 'other', ' ', @names + @rest, "\n";
rewinddir $d;
print scalar(() = readdir $d), "\n";

open(my $f, '+<', 'd/f100') or die;
flock($f, LOCK_EX | LOCK_NB) or die;
<$f> for 1 .. 5;
my $at = tell $f;
sysseek($f, $at, SEEK_SET);
if (my $child = fork) {
  waitpid $child, 0;
  sysread($f, my $text, 10);
  print "$at $text\n";
} else {
  sysread($f, my $text, 10);
  open(my $other, '<', 'd/f100') or die;
  print STDOUT "child $text ", flock($other, LOCK_SH | LOCK_NB) ? 'locked' : 'refused', "\n";
  close STDOUT;
  require POSIX;
  POSIX::_exit(0);
}
truncate($f, 20);
print -s $f, ' ', (stat $f)[7], ' ', -s 'd/f100', "\n";
close $f;

copy('d/f50', 'copy') && move('d/f51', 'moved') or die;
print -e 'd/f51' ? 'there' : 'gone', ' ', -s 'copy', ' ', -s 'moved', "\n";
my ($t, $name) = tempfile(DIR => '.', UNLINK => 1);
print $t 'x' x 10000;
$t->flush;
print -s $name, "\n";
unlink $name;
print -e $name ? 'there' : 'gone', ' ', -s $t, "\n";
chmod 0640, 'copy';
utime 1000, 2000, 'copy';
printf "%o %d ", (stat "copy")[2], (stat _)[9];
print join ' ', map { lstat("d/f$_") ? S_ISREG((lstat _)[2]) : 'no' } 50 .. 52;
symlink 'copy', 'link' and print readlink 'link', ' ', -l 'link' ? 'link' : 'none', "\n";
print scalar(@{[glob 'd/f1*']}), "\n";
remove_tree('d');
print -d 'd' ? 'there' : 'gone', "\n";
PERL
perl "$scratch/a.pl"
cp -r "$project/include" include && perl -pi.orig -e 's/define/DEFINE/' include/*.h && cat include/*.h | sha256sum
find include -name '*.orig' | wc -l
perl -e 'open(STDOUT, ">>", "log"); for (1 .. 20) { system("echo $_ by the shell"); print "$_ by perl\n"; $| = 1 }'
cat log
