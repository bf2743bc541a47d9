// Which path leads where, and who may ask: only under this machine's names where it listens on it alone, with the token
// where there is one, and JSON where it is taken. Everything that is refused here is answered here.
#pragma once
#include "src/serve/http.h"

// As HttpOptions.handle; `argument` is the Server.
void routes_handle(HttpRequest *request, void *argument);
