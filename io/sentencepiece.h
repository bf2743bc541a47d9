// Reading a SentencePiece model: the C face of libsentencepiece. It gives the pieces, their scores and kinds; encoding
// is io/bpe.c's, because its ids must be those of a Hugging Face tokenizer.json, not SentencePiece's own.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum PieceKind { PIECE_NORMAL = 0, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_UNUSED, PIECE_BYTE } PieceKind;

typedef struct SentencePiece SentencePiece;

// Reads the bytes of a tokenizer.model. NULL when they are no such model.
SentencePiece *sentencepiece_open(const void *bytes, size_t size);
void sentencepiece_close(SentencePiece *model); // NULL is allowed

int32_t sentencepiece_count(const SentencePiece *model);
int32_t sentencepiece_bos(const SentencePiece *model); // -1 if none
int32_t sentencepiece_eos(const SentencePiece *model);
// id in [0, count). The text is UTF-8, NUL-terminated, and lives as long as the model.
const char *sentencepiece_text(const SentencePiece *model, int32_t id);
float sentencepiece_score(const SentencePiece *model, int32_t id);
PieceKind sentencepiece_kind(const SentencePiece *model, int32_t id);
// Whether the model merges pairs (BPE) rather than choosing among segmentations (unigram).
bool sentencepiece_merges_pairs(const SentencePiece *model);
// Whether its normaliser leaves text as it is, but for one space put in front ("dummy prefix").
bool sentencepiece_keeps_text(const SentencePiece *model);

#ifdef __cplusplus
}
#endif
