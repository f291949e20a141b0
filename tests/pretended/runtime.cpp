// A pretended CUDA: what PyTorch asks of CUDA's libraries, answered on a machine without a GPU.
//
// PyTorch's own host code runs as it is: dispatch, autograd, allocator, streams, capture. Device memory is memory of the host,
// copies happen, kernels and the calls of cuBLAS, cuDNN and NCCL compute nothing. Launches, waits and copies are counted, and what
// the real runtime refuses while a stream captures is refused here. It can show that a step builds, moves and frees its tensors
// on the device, how many launches it takes and that the host never waits. It shows no numbers, no speed and no races.
//
// build.py adds a stub that returns success for every other function that PyTorch links to.

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#define API extern "C" __attribute__((visibility("default")))

// --- what is counted -----------------------------------------------------------------------------------------------------

namespace {

std::atomic<long> launches{0};     // kernels, copies, memsets, graphs, and calls of libraries that compute
std::atomic<long> waits{0};        // of the host for the device
std::atomic<long> pageable{0};     // copies between the device and memory that is not pinned: the host waits for each
std::atomic<long> allocations{0};  // of device memory
std::atomic<bool> refuse_pageable{false};

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t error) {
  last_error = error;
  return error;
}

// Objects that PyTorch holds handles of and never looks into.
template <class Handle>
auto make(Handle* handle) {
  *handle = reinterpret_cast<Handle>(calloc(1, 64));
  return decltype(cudaSuccess)(0);
}

int number(const char* variable, int otherwise) {
  const char* text = getenv(variable);
  return text ? atoi(text) : otherwise;
}

}  // namespace

API void pretended_reset() { launches = waits = pageable = allocations = 0; }
API long pretended_launches() { return launches; }
API long pretended_waits() { return waits; }
API long pretended_pageable() { return pageable; }
API long pretended_allocations() { return allocations; }
API void pretended_refuse_pageable(int on) { refuse_pageable = on; }
API long pretended_library_call() { return launches++, 0; }  // the stubs of functions that compute

// --- capture -------------------------------------------------------------------------------------------------------------

namespace {

struct {
  bool active = false, spoiled = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  cudaStream_t stream = nullptr;
  unsigned long long id = 0;
} capture;

// An operation that no graph can hold: the real runtime returns an error and spoils the capture.
cudaError_t outside_capture(cudaError_t error = cudaErrorStreamCaptureUnsupported) {
  if (!capture.active) return cudaSuccess;
  capture.spoiled = true;
  return failed(error);
}

cudaError_t wait() {
  waits++;
  return outside_capture();
}

// Work on the legacy stream would wait for the stream that captures.
cudaError_t launch(cudaStream_t stream) {
  launches++;
  bool legacy = stream == nullptr || stream == cudaStreamLegacy;
  return legacy ? outside_capture(cudaErrorStreamCaptureImplicit) : cudaSuccess;
}

}  // namespace

API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (stream == nullptr) return failed(cudaErrorStreamCaptureUnsupported);
  capture.active = true;
  capture.spoiled = false;
  capture.mode = mode;
  capture.thread = std::this_thread::get_id();
  capture.stream = stream;
  capture.id++;
  return cudaSuccess;
}
API cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t, const cudaGraphNode_t*, const cudaGraphEdgeData*,
                                              size_t, cudaStreamCaptureMode mode) {
  return cudaStreamBeginCapture(stream, mode);
}
API cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  capture.active = false;
  if (!capture.spoiled) return make(graph);
  *graph = nullptr;
  return failed(cudaErrorStreamCaptureInvalidated);
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  bool on = capture.active && stream == capture.stream;
  *status = on ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                         cudaGraph_t* graph, const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                         size_t* count) {
  cudaStreamIsCapturing(stream, status);
  if (id) *id = capture.id;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(1);
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) { return make(graph); }
API cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* count) {
  *count = 1;
  return cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) { return launch(stream ? stream : cudaStreamPerThread); }
API cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void*, cudaHostFn_t, unsigned, unsigned) { return make(object); }

// --- devices -------------------------------------------------------------------------------------------------------------

namespace {

const int devices = number("PRETENDED_GPUS", 1);
const size_t memory = size_t(number("PRETENDED_GIB", 80)) << 30;
thread_local int current = 0;

}  // namespace

API cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices;
  return cudaSuccess;
}
API cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices) return failed(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "a pretended GPU");
  found->major = 9;
  found->totalGlobalMem = memory;
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxGridSize[0] = 0x7fffffff;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->maxBlocksPerMultiProcessor = 32;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = 227 << 10;
  found->sharedMemPerMultiprocessor = 228 << 10;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->l2CacheSize = 50 << 20;
  found->textureAlignment = 512;
  found->unifiedAddressing = found->concurrentKernels = 1;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  cudaDeviceProp all;
  cudaGetDeviceProperties(&all, 0);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = all.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = all.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = all.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(all.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(all.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(all.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxRegistersPerBlock: *value = all.regsPerBlock; break;
    case cudaDevAttrComputeCapabilityMajor: *value = all.major; break;
    case cudaDevAttrWarpSize: *value = all.warpSize; break;
    case cudaDevAttrMaxGridDimX: *value = all.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = all.maxGridSize[1]; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char* name, int length, int device) {
  strncpy(name, device ? "0000:02:00.0" : "0000:01:00.0", size_t(length));
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* able, int, int) {
  *able = 0;
  return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize() { return wait(); }
API cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }
API cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
API cudaError_t cudaPeekAtLastError() { return last_error; }
API const char* cudaGetErrorName(cudaError_t) { return "a pretended error"; }
API const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidValue: return "refused: a copy from or to memory that is not pinned";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureImplicit: return "operation would make the legacy stream depend on a capturing stream";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "a pretended error";
  }
}

// --- memory --------------------------------------------------------------------------------------------------------------

namespace {

enum Kind { PAGEABLE, PINNED, ON_DEVICE };

struct Block {
  size_t size;
  int device;
  Kind kind;
};

// Never destroyed: PyTorch frees memory while the process ends.
std::mutex& guard = *new std::mutex;
std::map<char*, Block>& blocks = *new std::map<char*, Block>;
size_t used[16];

const Block* block_of(const void* place) {
  auto after = blocks.upper_bound(static_cast<char*>(const_cast<void*>(place)));
  if (after == blocks.begin()) return nullptr;
  auto& [start, block] = *--after;
  return place < start + block.size ? &block : nullptr;
}

Kind kind_of(const void* place) {
  std::lock_guard<std::mutex> held(guard);
  const Block* block = block_of(place);
  return block ? block->kind : PAGEABLE;
}

cudaError_t take(void** place, size_t size, Kind kind) {
  *place = nullptr;
  if (size == 0) return cudaSuccess;
  std::lock_guard<std::mutex> held(guard);
  if (kind == ON_DEVICE && used[current] + size > memory) return failed(cudaErrorMemoryAllocation);
  void* made = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
  blocks[static_cast<char*>(made)] = {size, current, kind};
  if (kind == ON_DEVICE) used[current] += size, allocations++;
  *place = made;
  return cudaSuccess;
}

cudaError_t drop(void* place) {
  if (!place) return cudaSuccess;
  std::lock_guard<std::mutex> held(guard);
  auto found = blocks.find(static_cast<char*>(place));
  if (found == blocks.end()) return failed(cudaErrorInvalidValue);
  if (found->second.kind == ON_DEVICE) used[found->second.device] -= found->second.size;
  munmap(place, found->second.size);
  blocks.erase(found);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t size, cudaStream_t stream, bool synchronous) {
  cudaError_t error = synchronous ? wait() : launch(stream);
  if (error != cudaSuccess) return error;
  Kind target = kind_of(to), source = kind_of(from);
  if ((target == ON_DEVICE) != (source == ON_DEVICE) && (target == PAGEABLE || source == PAGEABLE)) {
    pageable++;
    if (refuse_pageable) return failed(cudaErrorInvalidValue);
    if ((error = outside_capture()) != cudaSuccess) return error;
  }
  // No kernel has computed anything, so a single byte that is read back, a bool as "all are finite", is taken to be true.
  if (source == ON_DEVICE && target != ON_DEVICE && size == 1) return *static_cast<char*>(to) = 1, cudaSuccess;
  memmove(to, from, size);
  return cudaSuccess;
}

}  // namespace

API cudaError_t cudaMalloc(void** place, size_t size) { return take(place, size, ON_DEVICE); }
API cudaError_t cudaMallocAsync(void** place, size_t size, cudaStream_t) { return take(place, size, ON_DEVICE); }
API cudaError_t cudaHostAlloc(void** place, size_t size, unsigned) { return take(place, size, PINNED); }
API cudaError_t cudaFree(void* place) {
  cudaError_t error = place ? wait() : cudaSuccess;  // the real one waits for the device
  return error == cudaSuccess ? drop(place) : error;
}
API cudaError_t cudaFreeAsync(void* place, cudaStream_t) { return drop(place); }
API cudaError_t cudaFreeHost(void* place) { return drop(place); }
API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> held(guard);
  *total = memory;
  *free = memory - used[current];
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) { return copy(to, from, size, nullptr, true); }
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, size, stream, false);
}
API cudaError_t cudaMemset(void*, int, size_t) { return launch(nullptr); }
API cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* place) {
  std::lock_guard<std::mutex> held(guard);
  memset(found, 0, sizeof *found);
  found->device = -1;
  found->hostPointer = const_cast<void*>(place);
  if (const Block* block = block_of(place)) {
    found->type = block->kind == ON_DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    found->device = block->device;
    found->devicePointer = const_cast<void*>(place);
    if (block->kind == ON_DEVICE) found->hostPointer = nullptr;
  }
  return cudaSuccess;
}
API cudaError_t cudaGetSymbolAddress(void** place, const void*) {
  static char constants[1 << 16];
  *place = constants;
  return cudaSuccess;
}

// --- streams and events --------------------------------------------------------------------------------------------------

API cudaError_t cudaStreamCreate(cudaStream_t* stream) { return make(stream); }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return make(stream); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return make(stream); }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait(); }
API cudaError_t cudaEventCreate(cudaEvent_t* event) { return make(event); }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return make(event); }
API cudaError_t cudaEventSynchronize(cudaEvent_t) {
  // An event from before: a capture that is its thread's own lets other threads wait for it.
  bool other = capture.mode != cudaStreamCaptureModeGlobal && capture.thread != std::this_thread::get_id();
  return other ? (waits++, cudaSuccess) : wait();
}
API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* argument) {
  function(argument);
  return cudaSuccess;
}
API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* argument, unsigned) {
  function(stream, cudaSuccess, argument);
  return cudaSuccess;
}

// --- kernels -------------------------------------------------------------------------------------------------------------

namespace {

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local Configuration pushed[16];  // by a <<<...>>>, for the launch that follows
thread_local int depth = 0;

}  // namespace

API void** __cudaRegisterFatBinary(void*) { return static_cast<void**>(calloc(1, 64)); }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  pushed[depth++] = {grid, block, shared, stream};
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration& top = pushed[--depth];
  *grid = top.grid, *block = top.block, *shared = top.shared;
  *static_cast<cudaStream_t*>(stream) = top.stream;
  return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void*, void**) { return launch(how->stream); }
API cudaError_t __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t __cudaGetKernel(void** kernel, const void* function) {
  *kernel = const_cast<void*>(function);
  return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->binaryVersion = found->ptxVersion = 90;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}

// --- the driver, asked for by name ---------------------------------------------------------------------------------------

namespace {

int succeed() { return 0; }
int primary_context(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
int current_context(void** context) { return *context = reinterpret_cast<void*>(1), 0; }
int error_text(int, const char** text) { return *text = "a pretended error of the driver", 0; }
int device_count(int* count) { return *count = devices, 0; }

}  // namespace

API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult* status) {
  static const std::map<std::string, void*> known = {
      {"cuDevicePrimaryCtxGetState", reinterpret_cast<void*>(primary_context)},
      {"cuCtxGetCurrent", reinterpret_cast<void*>(current_context)},
      {"cuGetErrorString", reinterpret_cast<void*>(error_text)},
      {"cuGetErrorName", reinterpret_cast<void*>(error_text)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(device_count)},
  };
  auto found = known.find(name);
  *function = found == known.end() ? reinterpret_cast<void*>(succeed) : found->second;
  if (status) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// --- cuBLAS: the calls that give something back --------------------------------------------------------------------------

API int cublasCreate_v2(void** handle) { return make(handle); }
API int cublasGetMathMode(void*, int* mode) { return *mode = 0, 0; }
API int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0, 0; }
API size_t cublasLtGetVersion() { return 130100; }
API int cublasLtMatmulDescCreate(void** made, int, int) { return make(made); }
API int cublasLtMatmulPreferenceCreate(void** made) { return make(made); }
API int cublasLtMatrixLayoutCreate(void** made, int, uint64_t, uint64_t, int64_t) { return make(made); }
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* results, int* count) {
  memset(results, 0, 96);  // one cublasLtMatmulHeuristicResult_t: it needs no workspace
  return *count = 1, 0;
}

// --- cuDNN ---------------------------------------------------------------------------------------------------------------

API size_t cudnnGetVersion() { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion() { return CUDART_VERSION; }
API const char* cudnnGetErrorString(cudnnStatus_t) { return "a pretended error of cuDNN"; }
API void cudnnGetLastErrorString(char* text, size_t size) { strncpy(text, "a pretended error", size); }
API cudnnStatus_t cudnnGetProperty(libraryPropertyType which, int* value) {
  *value = which == MAJOR_VERSION ? CUDNN_MAJOR : which == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
  return CUDNN_STATUS_SUCCESS;
}

#define MADE(name, type) \
  API cudnnStatus_t name(type* made) { return make(made), CUDNN_STATUS_SUCCESS; }
MADE(cudnnCreate, cudnnHandle_t)
MADE(cudnnCreateActivationDescriptor, cudnnActivationDescriptor_t)
MADE(cudnnCreateConvolutionDescriptor, cudnnConvolutionDescriptor_t)
MADE(cudnnCreateDropoutDescriptor, cudnnDropoutDescriptor_t)
MADE(cudnnCreateFilterDescriptor, cudnnFilterDescriptor_t)
MADE(cudnnCreatePoolingDescriptor, cudnnPoolingDescriptor_t)
MADE(cudnnCreateRNNDataDescriptor, cudnnRNNDataDescriptor_t)
MADE(cudnnCreateRNNDescriptor, cudnnRNNDescriptor_t)
MADE(cudnnCreateTensorDescriptor, cudnnTensorDescriptor_t)

// Graphs of operations: one engine, which needs no workspace.
API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t* made) {
  return make(made), CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t made) {
  return free(made), CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t wanted, int64_t* count, void* values) {
  int64_t found = name == CUDNN_ATTR_ENGINEHEUR_RESULTS || name == CUDNN_ATTR_ENGINECFG_ENGINE;
  if (!found && type == CUDNN_TYPE_INT64 && wanted == 1 && values) found = 1, *static_cast<int64_t*>(values) = 0;
  if (count) *count = found;
  return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnDropoutGetStatesSize(cudnnHandle_t, size_t* size) { return *size = 1024, CUDNN_STATUS_SUCCESS; }

// Recurrent nets. PyTorch asks where each layer's weights lie in one block: matrices of all layers, then biases.
namespace {

struct Recurrent {
  long input, hidden, layers, gates, bytes;
  long matrices(long layer) const {  // numbers in those of the layers before
    long sum = 0;
    for (long i = 0; i < layer; i++) sum += gates * hidden * ((i ? hidden : input) + hidden);
    return sum;
  }
};
std::map<void*, Recurrent>& nets = *new std::map<void*, Recurrent>;
std::map<void*, std::pair<int, int>>& shapes = *new std::map<void*, std::pair<int, int>>;

}  // namespace

API cudnnStatus_t cudnnSetRNNDescriptor_v8(cudnnRNNDescriptor_t made, cudnnRNNAlgo_t, cudnnRNNMode_t mode, cudnnRNNBiasMode_t,
                                           cudnnDirectionMode_t, cudnnRNNInputMode_t, cudnnDataType_t type, cudnnDataType_t,
                                           cudnnMathType_t, int32_t input, int32_t hidden, int32_t, int32_t layers,
                                           cudnnDropoutDescriptor_t, uint32_t) {
  std::lock_guard<std::mutex> held(guard);
  nets[made] = {input, hidden, layers, mode == CUDNN_LSTM ? 4 : mode == CUDNN_GRU ? 3 : 1,
                type == CUDNN_DATA_FLOAT ? 4 : type == CUDNN_DATA_DOUBLE ? 8 : 2};
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetRNNWeightSpaceSize(cudnnHandle_t, cudnnRNNDescriptor_t made, size_t* size) {
  std::lock_guard<std::mutex> held(guard);
  const Recurrent& net = nets[made];
  *size = size_t(net.bytes * (net.matrices(net.layers) + net.layers * 2 * net.gates * net.hidden));
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetRNNTempSpaceSizes(cudnnHandle_t, cudnnRNNDescriptor_t, cudnnForwardMode_t, cudnnRNNDataDescriptor_t,
                                            size_t* work, size_t* reserve) {
  if (work) *work = 1 << 20;
  if (reserve) *reserve = 1 << 20;
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetRNNWeightParams(cudnnHandle_t, cudnnRNNDescriptor_t made, int32_t layer, size_t, const void* block,
                                          int32_t which, cudnnTensorDescriptor_t matrix_of, void** matrix,
                                          cudnnTensorDescriptor_t bias_of, void** bias) {
  std::lock_guard<std::mutex> held(guard);
  const Recurrent& net = nets[made];
  bool recurrent = which >= net.gates;
  long input = layer ? net.hidden : net.input;
  long at = net.matrices(layer) + (recurrent ? net.gates * net.hidden * input + (which - net.gates) * net.hidden * net.hidden
                                             : which * net.hidden * input);
  char* start = static_cast<char*>(const_cast<void*>(block));
  if (matrix) *matrix = start + net.bytes * at;
  if (bias) *bias = start + net.bytes * (net.matrices(net.layers) + (layer * 2 * net.gates + which) * net.hidden);
  if (matrix_of) shapes[matrix_of] = {int(net.hidden), int(recurrent ? net.hidden : input)};
  if (bias_of) shapes[bias_of] = {int(net.hidden), 1};
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetTensorNdDescriptor(const cudnnTensorDescriptor_t of, int, cudnnDataType_t* type, int* dims, int sizes[],
                                             int strides[]) {
  std::lock_guard<std::mutex> held(guard);
  auto [rows, columns] = shapes[of];
  *type = CUDNN_DATA_FLOAT;
  *dims = 3;
  sizes[0] = 1, sizes[1] = rows, sizes[2] = columns;
  strides[0] = rows * columns, strides[1] = columns, strides[2] = 1;
  return CUDNN_STATUS_SUCCESS;
}

// --- NCCL: as if all processes sent what this one sends ------------------------------------------------------------------

namespace {

size_t bytes_of(int type) { return type < 2 ? 1 : type == 2 || type == 3 || type == 7 ? 4 : type == 6 || type == 9 ? 2 : 8; }

}  // namespace

struct NcclId {
  char bytes[128];
};
API int ncclGetVersion(int* version) { return *version = 22700, 0; }
API const char* ncclGetErrorString(int) { return "a pretended error of NCCL"; }
API const char* ncclGetLastError(void*) { return ncclGetErrorString(0); }
API int ncclCommInitRankConfig(void** group, int count, NcclId, int, void*) {
  make(group);
  return *static_cast<int*>(*group) = count, 0;
}
API int ncclCommInitRank(void** group, int count, NcclId id, int rank) {
  return ncclCommInitRankConfig(group, count, id, rank, nullptr);
}
API int ncclCommCount(void* group, int* count) { return *count = *static_cast<int*>(group), 0; }
API int ncclCommGetAsyncError(void*, int* error) { return *error = 0, 0; }
API int ncclAllReduce(const void* from, void* to, size_t count, int type, int, void*, void*) {
  launches++;
  if (from != to) memmove(to, from, count * bytes_of(type));
  return 0;
}
API int ncclBroadcast(const void* from, void* to, size_t count, int type, int, void* group, void* stream) {
  return ncclAllReduce(from, to, count, type, 0, group, stream);
}
API int ncclAllGather(const void* from, void* to, size_t count, int type, void* group, void*) {
  launches++;
  size_t size = count * bytes_of(type);
  for (int rank = 0; rank < *static_cast<int*>(group); rank++) memmove(static_cast<char*>(to) + rank * size, from, size);
  return 0;
}
