// cuDNN's older interface asks how much room an operation needs: none. Without its header, since types do not matter here.

#include <stddef.h>

#define NO_WORKSPACE(name, ...) \
  int name(__VA_ARGS__, size_t* size) { return *size = 0, 0; }
NO_WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize, void* a, void* b, void* c, void* d, void* e, int f)
NO_WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize, void* a, void* b, void* c, void* d, void* e, int f)
NO_WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize, void* a, void* b, void* c, void* d, void* e, int f)
NO_WORKSPACE(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize, void* a, int b, int c, void* d, void* e, void* f, void* g,
             void* h)
NO_WORKSPACE(cudnnGetBatchNormalizationBackwardExWorkspaceSize, void* a, int b, int c, void* d, void* e, void* f, void* g, void* h,
             void* i, void* j)
NO_WORKSPACE(cudnnGetBatchNormalizationTrainingExReserveSpaceSize, void* a, int b, int c, void* d, void* e)
