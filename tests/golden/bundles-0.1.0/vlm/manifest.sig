{
 "version": "edgeq.signature/1",
 "key": "8e897f321066109e",
 "signature": "e89nU85FMPqDG//05bXddPrbrgLkuYRRG9gZYgeXTomIvo9VAdGUWOorPnRF0gVIaJt86pFu2ELxH2Nud8H8Bg=="
}