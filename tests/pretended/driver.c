// The driver's library, which Triton's generated code links to: what of it gives something back.
// build.py adds stubs for the rest, and counts launches.

#include <string.h>

#define OBJECT ((void*)1)

int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuCtxGetCurrent(void** context) { return *context = OBJECT, 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = OBJECT, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) { return *flags = 0, *active = 1, 0; }
int cuModuleLoadData(void** module, const void* image) { return *module = OBJECT, 0; }
int cuModuleLoadDataEx(void** module, const void* image, unsigned n, void* options, void* values) { return *module = OBJECT, 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) { return *function = OBJECT, 0; }
int cuFuncGetAttribute(int* value, int attribute, void* function) { return *value = 0, 0; }
int cuFuncGetModule(void** module, void* function) { return *module = OBJECT, 0; }
int cuGetErrorString(int error, const char** text) { return *text = "a pretended error of the driver", 0; }
int cuGetErrorName(int error, const char** text) { return *text = "pretended", 0; }
int cuOccupancyMaxActiveClusters(int* count, void* function, void* how) { return *count = 1, 0; }
int cuPointerGetAttribute(void* value, int attribute, unsigned long long place) {
  memcpy(value, &place, sizeof place);  // that of the device is the pointer itself
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 1: *value = 1024; break;                // threads a block
    case 8: *value = 48 << 10; break;            // shared memory a block
    case 10: *value = 32; break;                 // threads a warp
    case 12: case 82: *value = 65536; break;     // registers a block, and a multiprocessor
    case 13: case 36: *value = 1755000; break;   // clock rates
    case 16: *value = 132; break;                // multiprocessors
    case 37: *value = 5120; break;               // bits of the memory's bus
    case 39: *value = 2048; break;               // threads a multiprocessor
    case 75: *value = 9; break;                  // compute capability
    case 81: *value = 228 << 10; break;          // shared memory a multiprocessor
    case 97: *value = 227 << 10; break;          // shared memory a block may ask for
    default: *value = 0;
  }
  return 0;
}
