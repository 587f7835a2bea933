// One function per family of system calls. 1: *result is the call's; 0: the original call is to be made.
#pragma once
#include "op.h"

namespace shortfuse::bypass {

int call_stat(const sf_call *c, long *result);       // stat lstat fstat newfstatat statx
int call_access(const sf_call *c, long *result);
int call_readlink(const sf_call *c, long *result);
int call_xattr(const sf_call *c, long *result);      // get and list
int call_statfs(const sf_call *c, long *result);
int call_open(const sf_call *c, long *result);
int call_read(const sf_call *c, long *result);       // read readv, pread64 preadv preadv2
int call_lseek(const sf_call *c, long *result);
int call_getdents(const sf_call *c, long *result);
int call_descriptor(const sf_call *c, long *result); // close dup* fcntl close_range
int call_offset_user(const sf_call *c, long *result);// sendfile splice copy_file_range sendmsg...
int call_creator(const sf_call *c, long *result);    // whatever else makes descriptors: pipe, socket, recvmsg...
int call_directory(const sf_call *c, long *result);  // chdir fchdir
int call_process(const sf_call *c, long *result);    // credentials, namespaces, io_uring
int call_uses(const sf_call *c, long *result);       // mmap, poll, flock...: not ours, but they take descriptors
/// Calls for call_uses: that take a descriptor, or what may be one; of these, after which opens may not be served any
/// more, so it is seen from the start. A table: it is asked for every number at every start of a process.
enum class Users : uint8_t { No, Yes, MayEndOpens };
struct UsersTable {
  Users of[kSysSeen];
};
extern const UsersTable kUsers;
inline Users users_of(long nr) {
  if (nr >= 0 && nr < kSysSeen) return kUsers.of[nr];
  return nr < 0 ? Users::No : Users::Yes;
}
int call_other(const sf_call *c, long *result);      // what changes the mount: counted, never served

/// "Is it a terminal?", asked of every file by programs that are written in Python or Perl: it is known not to be one.
bool is_no_terminal(const sf_call *c);

/// A call on a mount that is not served: counted as passed. Always 0.
int pass(MountRef mount, sf_op kind);

/// A descriptor of a directory that names are looked up in: of /proc, where they lead to descriptors?
void note_proc(int fd);
/// A path that is opened, or becomes the working directory: may /proc show offsets by it?
void note_offsets_shown(const char *path);

}  // namespace shortfuse::bypass
