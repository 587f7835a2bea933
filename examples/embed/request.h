/* What the application tells its plug-ins of a request. Both sides include this. */
#pragma once
struct request {
  unsigned int user, method;
  unsigned long long bytes;
};
