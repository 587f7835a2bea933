/* The command line: ours first, then what every low-level FUSE program has, then what tunes the connection; the rest
 * goes to fuse_session_new(), which knows the mount options and refuses what nobody knows. */
#include "options.h"

#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace shortfuse::passthrough {
namespace {

constexpr double kMaxSeconds = 10.0 * 365 * 86400;

enum Key {
  kAttrTimeout, kEntryTimeout, kNegativeTimeout, kTimeout, kCache, kLocks, kWriteback, kXattr, kNoXattr, kAcl, kNoAcl,
  kDefaultPermissions, kNoDefaultPermissions, kXdev, kNoXdev, kIgnored, kFsname, kSubtype,
};

const fuse_opt kOptions[] = {
    FUSE_OPT_KEY("attr_timeout=", kAttrTimeout),
    FUSE_OPT_KEY("entry_timeout=", kEntryTimeout),
    FUSE_OPT_KEY("negative_timeout=", kNegativeTimeout),
    FUSE_OPT_KEY("timeout=", kTimeout),
    FUSE_OPT_KEY("cache=", kCache),
    FUSE_OPT_KEY("locks=", kLocks),
    FUSE_OPT_KEY("writeback", kWriteback),
    FUSE_OPT_KEY("xattr", kXattr),
    FUSE_OPT_KEY("noxattr", kNoXattr),
    FUSE_OPT_KEY("acl", kAcl),
    FUSE_OPT_KEY("noacl", kNoAcl),
    FUSE_OPT_KEY("default_permissions", kDefaultPermissions),
    FUSE_OPT_KEY("nodefault_permissions", kNoDefaultPermissions),
    FUSE_OPT_KEY("xdev", kXdev),
    FUSE_OPT_KEY("noxdev", kNoXdev),
    FUSE_OPT_KEY("nofail", kIgnored),  // fstab's, for mount(8); some versions hand it down
    FUSE_OPT_KEY("fsname=", kFsname),
    FUSE_OPT_KEY("subtype=", kSubtype),
    FUSE_OPT_END,
};

struct Parsing {
  Invocation* into;
  std::string error;
  std::string source;
  int positional = 0;
  double timeout_s = -1, attr_s = -1, entry_s = -1, negative_s = -1;  // below 0: not given
  bool fsname = false, subtype = false;

  void seconds(double* to, const char* option, const char* value) {
    auto parsed = parse_seconds(option, value);
    if (parsed) *to = *parsed;
    else error = parsed.error();
  }
};

bool set_cache(Settings* settings, const char* value) {
  if (!strcmp(value, "none")) settings->cache = CacheMode::kNone;
  else if (!strcmp(value, "auto")) settings->cache = CacheMode::kAuto;
  else if (!strcmp(value, "always")) settings->cache = CacheMode::kAlways;
  else return false;
  return true;
}

bool set_locks(Settings* settings, const char* value) {
  if (!strcmp(value, "source")) settings->locks_in_source = true;
  else if (!strcmp(value, "local")) settings->locks_in_source = false;
  else return false;
  return true;
}

int positional(Parsing* parsing, const char* arg) {
  switch (parsing->positional++) {
    case 0: parsing->source = arg; return 0;
    case 1: return 1;  // the mount point: fuse_parse_cmdline() takes it
    default: parsing->error = std::string("one argument too many: '") + arg + "'"; return -1;
  }
}

/// fuse_opt_parse()'s callback: 0 taken, 1 left in the arguments, -1 stop.
int take_option(void* data, const char* arg, int key, fuse_args*) {
  auto* parsing = static_cast<Parsing*>(data);
  Settings& settings = parsing->into->settings;
  const char* equals = strchr(arg, '=');
  const char* value = equals ? equals + 1 : "";
  switch (key) {
    case FUSE_OPT_KEY_NONOPT: return positional(parsing, arg);
    case kAttrTimeout: parsing->seconds(&parsing->attr_s, "attr_timeout", value); break;
    case kEntryTimeout: parsing->seconds(&parsing->entry_s, "entry_timeout", value); break;
    case kNegativeTimeout: parsing->seconds(&parsing->negative_s, "negative_timeout", value); break;
    case kTimeout: parsing->seconds(&parsing->timeout_s, "timeout", value); break;
    case kCache:
      if (!set_cache(&settings, value)) {
        parsing->error = std::string("cache=") + value + ": expected none, auto or always";
      }
      break;
    case kLocks:
      if (!set_locks(&settings, value)) parsing->error = std::string("locks=") + value + ": expected source or local";
      break;
    case kWriteback: settings.writeback = true; break;
    case kXattr: settings.xattr = true; break;
    case kNoXattr: settings.xattr = false; break;
    case kAcl: settings.acl = true; break;
    case kNoAcl: settings.acl = false; break;
    case kDefaultPermissions: settings.default_permissions = true; break;
    case kNoDefaultPermissions: settings.default_permissions = false; break;
    case kXdev: settings.follow_mounts = false; break;
    case kNoXdev: settings.follow_mounts = true; break;
    case kIgnored: break;
    case kFsname: parsing->fsname = true; return 1;
    case kSubtype: parsing->subtype = true; return 1;
    default: return 1;
  }
  return parsing->error.empty() ? 0 : -1;
}

void settle_timeouts(const Parsing& parsing, Settings* settings) {
  double attr = settings->cache == CacheMode::kNone ? 0.0 : 1.0;
  // Where the source decides who may search a directory, it has to be asked for every name.
  double name = settings->default_permissions ? attr : 0.0;
  auto first_given = [](double a, double b, double otherwise) { return a >= 0 ? a : b >= 0 ? b : otherwise; };
  settings->attr_timeout_s = first_given(parsing.attr_s, parsing.timeout_s, attr);
  settings->entry_timeout_s = first_given(parsing.entry_s, parsing.timeout_s, name);
  settings->negative_timeout_s = first_given(parsing.negative_s, parsing.timeout_s, name);
}

/// "-o name=value" with the characters escaped that end an option.
void add_mount_option(fuse_args* args, const char* name, const std::string& value) {
  std::string text = std::string("-o") + name + "=";
  for (char c : value) {
    if (c == ',' || c == '\\') text += '\\';
    text += c;
  }
  fuse_opt_add_arg(args, text.c_str());
}

}  // namespace

Invocation::~Invocation() {
  free(cmdline.mountpoint);
  fuse_opt_free_args(&args);
}

std::expected<double, std::string> parse_seconds(const std::string& option, const std::string& text) {
  auto bad = [&] { return std::unexpected(option + "=" + text + ": expected a number of seconds, such as 1 or 0.5"); };
  if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return bad();
  char* end = nullptr;
  double value = strtod(text.c_str(), &end);
  if (*end != '\0' || end == text.c_str() || !std::isfinite(value) || value > kMaxSeconds) return bad();
  return value;
}

std::expected<std::unique_ptr<Invocation>, std::string> parse_command_line(int argc, char** argv) {
  auto invocation = std::make_unique<Invocation>();
  fuse_args* args = &invocation->args;
  *args = FUSE_ARGS_INIT(0, nullptr);
  for (int i = 0; i < argc; ++i) fuse_opt_add_arg(args, argv[i]);

  Parsing parsing{.into = invocation.get()};
  if (fuse_opt_parse(args, &parsing, kOptions, take_option) != 0) {
    return std::unexpected(parsing.error.empty() ? "the options could not be read" : parsing.error);
  }
  if (!parsing.subtype) fuse_opt_add_arg(args, "-osubtype=passthroughfs");
  if (fuse_parse_cmdline(args, &invocation->cmdline) != 0) {
    return std::unexpected("the command line is wrong; see --help");
  }
  if (invocation->cmdline.show_help || invocation->cmdline.show_version) return invocation;

  if (parsing.positional == 0) return std::unexpected("no source directory given; see --help");
  if (!invocation->cmdline.mountpoint) return std::unexpected("no mount point given; see --help");
  invocation->mountpoint = invocation->cmdline.mountpoint;
  char resolved[PATH_MAX];
  if (!realpath(parsing.source.c_str(), resolved)) {
    return std::unexpected("source '" + parsing.source + "': " + strerror(errno));
  }
  invocation->source = resolved;

  invocation->conn.reset(fuse_parse_conn_info_opts(args));
  if (!invocation->conn) return std::unexpected("an option of the connection has a wrong value; see --help");
  settle_timeouts(parsing, &invocation->settings);
  if (invocation->settings.default_permissions) fuse_opt_add_arg(args, "-odefault_permissions");
  if (!parsing.fsname) add_mount_option(args, "fsname", invocation->source);
  return invocation;
}

void print_help(const char* program) {
  printf("usage: %s SOURCE MOUNTPOINT [options]\n\n"
         "Shows the directory SOURCE at MOUNTPOINT. Also: mount -t fuse.passthroughfs SOURCE MOUNTPOINT [-o ...]\n\n"
         "What is kept, and for how long:\n"
         "    -o timeout=SECONDS          sets the three below; 1, or 0 with cache=none; fractions are fine;\n"
         "                                with nodefault_permissions names are not trusted unless this says so\n"
         "    -o attr_timeout=SECONDS     how long the kernel trusts attributes\n"
         "    -o entry_timeout=SECONDS    how long the kernel trusts a name that it found\n"
         "    -o negative_timeout=SECONDS how long the kernel trusts that a name does not exist\n"
         "    -o cache=none|auto|always   file data: never cached; dropped at each open() and when the file\n"
         "                                changed (default); kept over open(), directory listings too\n"
         "    -o writeback                writes are collected in the kernel; nobody else may change the source\n\n"
         "What is allowed:\n"
         "    -o default_permissions      the kernel checks modes, owners and ACLs (default)\n"
         "    -o nodefault_permissions    every operation is done as its caller, the source's file system checks;\n"
         "                                slower; for sources such as NFS that do not trust root\n"
         "    -o [no]acl                  POSIX ACLs decide as well (default; needs xattr, default_permissions)\n"
         "    -o [no]xattr                extended attributes (default)\n\n"
         "What is shown:\n"
         "    -o [no]xdev                 stay on the file system of SOURCE; what is mounted below is not shown\n"
         "                                (or refused with EXDEV where the user may not arrange that)\n"
         "    -o locks=source|local       fcntl() and flock() locks exclude users of the source as well (default),\n"
         "                                or only users of this mount, which is faster\n\n"
         "Program and session:\n", program);
  fuse_cmdline_help();
  printf("\nMount:\n");
  fuse_lowlevel_help();
  printf("\nConnection: -o max_write=N, max_readahead=N, max_background=N, congestion_threshold=N,\n"
         "    sync_read, [no_]splice_read, [no_]splice_write, [no_]splice_move, [no_]async_dio,\n"
         "    [no_]readdirplus[=yes|no|auto], no_remote_lock (as locks=local)\n");
#ifdef PASSTHROUGHFS_HAS_BRIDGE
  printf("\nAcceleration by policies (see shortfuse(1)):\n"
         "    -o bpftime=A.bpf.o[:B.bpf.o...]  policies that answer from shared memory, in this order\n"
         "    -o bpftime_mem=SIZE              memory for what they keep (256M)\n"
         "    -o bpftime_share=own|all         who may read it: this user's processes (default), or everybody's\n");
#endif
}

}  // namespace shortfuse::passthrough
