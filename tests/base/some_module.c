// Modules for test_module.c: with the program's word for what both must agree on (CMake adds that file), with ANOTHER,
// and without one.
#ifdef ANOTHER
const char kto_module_interface[] = "0123";
#endif
const int answer = 42;
