#include "services/edge/pipe_pool.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

TEST(PipePoolTest, GivesAPipeAgain) {
  PipePool pool(1);
  std::unique_ptr<Pipe> pipe = pool.Take();
  const int end = pipe->in.get();
  pool.Give(std::move(pipe));

  EXPECT_EQ(pool.Take()->in.get(), end);
}

TEST(PipePoolTest, HasNoMoreThanItsLimit) {
  PipePool pool(2);
  const std::unique_ptr<Pipe> first = pool.Take();
  std::unique_ptr<Pipe> second = pool.Take();

  EXPECT_EQ(pool.Take(), nullptr);
  pool.Give(std::move(second));
  EXPECT_NE(pool.Take(), nullptr);
}

TEST(PipePoolTest, GivesNobodyTheBytesOfAnother) {
  PipePool pool(1);
  std::unique_ptr<Pipe> pipe = pool.Take();
  ASSERT_EQ(write(pipe->in.get(), "x", 1), 1);
  pipe->bytes = 1;
  pool.Give(std::move(pipe));

  pipe = pool.Take();
  ASSERT_NE(pipe, nullptr);
  EXPECT_EQ(pipe->bytes, 0);
  char byte = 0;
  EXPECT_EQ(read(pipe->out.get(), &byte, 1), -1);
}

}  // namespace
}  // namespace mycelium::edge
