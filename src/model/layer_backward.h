// The layers, backward: the mirror of src/model/layer.h.
#pragma once
#include "src/model/state.h"

// ONE_DRES: from the gradient at the layer's output to the one at its input; adds to the adapters' gradients. Needs the
// layer's kept activations.
Status layer_backward(Model *model, const LayerRun *run, int layer);
