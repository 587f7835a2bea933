/* Scripts of file system operations, whose every result is a line of text, so that two directories can be compared.
 *
 * A file holds cases; each runs in a new empty directory.
 *     case NAME [for X=a,b,c] [for Y=1,2]     runs once for every combination; $X stands for the value
 *     COMMAND ARGUMENT... [= RESULT]          RESULT is compared as well, where given
 *     u=UID g=GID G=1,2 m=UMASK COMMAND ...   as somebody else, in a process of its own
 * {n255} is a name of 255 letters, {p4096} a path of 4096 characters. Commands: see kCommands in script.cc.
 * A result is "ok", what was asked for, or the name of an errno. */
#pragma once
#include <string>
#include <vector>

namespace shortfuse::passthrough::testing {

struct ScriptLine {
  int number;  ///< in the file
  std::string text;
  std::string expected;  ///< empty: whatever the plain directory says
};

struct ScriptCase {
  std::string name;  ///< with the values of its variables
  std::vector<ScriptLine> lines;
};

/// All cases of a file, variables filled in. Aborts on a file that does not follow the grammar.
std::vector<ScriptCase> read_script(const std::string& file);

/// Runs the lines in `directory`; one result for each.
std::vector<std::string> run_script(const ScriptCase& script, const std::string& directory);

}  // namespace shortfuse::passthrough::testing
