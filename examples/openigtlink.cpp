// Sends or receives images by the reference implementation of OpenIGTLink, to try `ht-kernels stream` with. It is
// written for the version 1.11 that Debian has (libopenigtlink-dev).
//
//   c++ -std=c++17 -I/usr/include/openigtlink examples/openigtlink.cpp -lOpenIGTLink -o openigtlink
//
//   ./openigtlink send PORT WIDTH HEIGHT COMPONENTS COUNT
//       listens, with PORT 0 on any free one, which it prints, and gives the first program that connects COUNT images
//       of the device Probe, 30 a second, and with each a TRANSFORM, a STATUS and a STRING
//   ./openigtlink receive HOST PORT COUNT
//       connects and prints COUNT images, each in a line of JSON
#include <igtlClientSocket.h>
#include <igtlImageMessage.h>
#include <igtlMessageHeader.h>
#include <igtlOSUtil.h>
#include <igtlServerSocket.h>
#include <igtlStatusMessage.h>
#include <igtlStringMessage.h>
#include <igtlTransformMessage.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

constexpr int kMilliseconds = 33;
constexpr int kPatience = 20000;  // milliseconds to wait for a program that connects, or for data

// The axes of the images, rotated by 30 degrees in the plane of the first two.
igtl::Matrix4x4 kPlace = {{0.8660254f, -0.5f, 0, 10}, {0.5f, 0.8660254f, 0, -20.5f}, {0, 0, 1, 30.25f}, {0, 0, 0, 1}};

void send(igtl::Socket& to, igtl::MessageBase& message, int index) {
  igtl::TimeStamp::Pointer time = igtl::TimeStamp::New();
  time->SetTime(1700000000u + index, 500000000);
  message.SetTimeStamp(time);
  message.Pack();
  to.Send(message.GetPackPointer(), message.GetPackSize());
}

int serve(int port, int width, int height, int components, int count) {
  igtl::ServerSocket::Pointer server = igtl::ServerSocket::New();
  if (server->CreateServer(port) < 0) return 1;
  std::printf("%d\n", server->GetServerPort());
  std::fflush(stdout);
  igtl::ClientSocket::Pointer to = server->WaitForConnection(kPatience);
  if (to.IsNull()) return 1;
  for (int index = 0; index < count && to->GetConnected(); ++index) {
    igtl::TransformMessage::Pointer transform = igtl::TransformMessage::New();
    transform->SetDeviceName("ProbeToTracker");
    transform->SetMatrix(kPlace);
    send(*to, *transform, index);
    igtl::StatusMessage::Pointer status = igtl::StatusMessage::New();
    status->SetDeviceName("Scanner");
    status->SetCode(igtl::StatusMessage::STATUS_OK);
    send(*to, *status, index);
    igtl::StringMessage::Pointer text = igtl::StringMessage::New();
    text->SetDeviceName("Depth");
    text->SetString("5 cm");
    send(*to, *text, index);

    igtl::ImageMessage::Pointer image = igtl::ImageMessage::New();
    image->SetDeviceName("Probe");
    image->SetDimensions(width, height, 1);
    image->SetSpacing(0.25f, 0.5f, 1);
    image->SetNumComponents(components);
    image->SetScalarType(igtl::ImageMessage::TYPE_UINT8);
    image->SetMatrix(kPlace);
    image->AllocateScalars();
    auto* pixel = static_cast<std::uint8_t*>(image->GetScalarPointer());
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        for (int c = 0; c < components; ++c) *pixel++ = static_cast<std::uint8_t>(x + 2 * y + 40 * c + 3 * index);
      }
    }
    send(*to, *image, index);
    igtl::Sleep(kMilliseconds);
  }
  to->CloseSocket();
  return 0;
}

bool fill(igtl::Socket& from, void* place, int size) { return from.Receive(place, size) == size; }

void print(igtl::ImageMessage& image) {
  int size[3], components = image.GetNumComponents();
  float spacing[3], centre[3], axes[3][3];
  image.GetDimensions(size);
  image.GetSpacing(spacing);
  image.GetOrigin(centre);
  image.GetNormals(axes[0], axes[1], axes[2]);
  igtl::TimeStamp::Pointer time = igtl::TimeStamp::New();
  image.GetTimeStamp(time);
  igtlUint32 second, nanosecond;
  time->GetTimeStamp(&second, &nanosecond);
  std::uint64_t sum = 0;
  const auto* pixel = static_cast<const std::uint8_t*>(image.GetScalarPointer());
  for (int i = 0; i < size[0] * size[1] * size[2] * components; ++i) sum += pixel[i];
  std::printf("{\"device\": \"%s\", \"time\": [%u, %u], \"size\": [%d, %d, %d], \"components\": %d, \"sum\": %llu, ",
              image.GetDeviceName(), second, nanosecond, size[0], size[1], size[2], components,
              static_cast<unsigned long long>(sum));
  std::printf("\"spacing\": [%.9g, %.9g, %.9g], \"centre\": [%.9g, %.9g, %.9g], \"axes\": [", spacing[0], spacing[1],
              spacing[2], centre[0], centre[1], centre[2]);
  for (int i = 0; i < 9; ++i) std::printf("%s%.9g", i ? ", " : "", axes[i / 3][i % 3]);
  std::printf("]}\n");
  std::fflush(stdout);
}

int receive(const char* host, int port, int count) {
  igtl::ClientSocket::Pointer from = igtl::ClientSocket::New();
  if (from->ConnectToServer(host, port) != 0) return 1;
  from->SetReceiveTimeout(kPatience);
  while (count > 0) {
    igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
    header->InitPack();
    if (!fill(*from, header->GetPackPointer(), header->GetPackSize())) return 1;
    header->Unpack();
    igtl::ImageMessage::Pointer image = igtl::ImageMessage::New();
    image->SetMessageHeader(header);
    image->AllocatePack();
    if (!fill(*from, image->GetPackBodyPointer(), image->GetPackBodySize())) return 1;
    if (std::string(header->GetDeviceType()) != "IMAGE") continue;
    if (!(image->Unpack(1) & igtl::MessageHeader::UNPACK_BODY)) return 1;  // the checksum is wrong
    print(*image);
    --count;
  }
  from->CloseSocket();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i) { return std::atoi(argv[i]); };
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "send" && argc == 7) return serve(number(2), number(3), number(4), number(5), number(6));
  if (what == "receive" && argc == 5) return receive(argv[2], number(3), number(4));
  std::fprintf(stderr,
               "usage: openigtlink send PORT WIDTH HEIGHT COMPONENTS COUNT\n"
               "       openigtlink receive HOST PORT COUNT\n");
  return 2;
}
